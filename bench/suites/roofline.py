"""The roofline suite: predictions of the least time of every phase, on GPUs that need not be at hand.

A row is a phase on a device, `all` of them together, on one GPU and on eight that share the batch. Nothing is measured:
counted work over datasheet ceilings, see bench.count.roofline. Real times are longer.
"""

from dataclasses import asdict

from tqdm import tqdm

from bench.base.devices import DEVICES, Device
from bench.base.jobs import Job, job_config
from bench.base.options import Options
from bench.base.results import Run
from bench.count.roofline import CountedJob, count_preset

CONFIGS = ("cifar10", "imagenet64", "lsun_bedroom256")
GPUS = (1, 8)


def run(options: Options, results: Run) -> None:
    """Count every configuration once for each number of GPUs and predict it on every device of bench.base.devices."""
    counts = [(name, gpus) for name in options.configs or CONFIGS for gpus in (GPUS[:1] if options.quick else GPUS)]
    for name, gpus in tqdm(counts, desc="roofline"):
        if not options.time_left_sec():
            results.skip(f"{name} on {gpus} GPUs")
            continue
        batch = job_config(name, options.overrides).optim.batch
        if batch % gpus:
            results.skip(f"{name} on {gpus} GPUs: they cannot share its batch of {batch}")
            continue
        job, counted = count_preset(name, options.overrides, gpus=gpus)
        for device in DEVICES.values():
            _add_rows(name, gpus, job, counted, device, results)


def _add_rows(name: str, gpus: int, job: Job, counted: CountedJob, device: Device, results: Run) -> None:
    roofline = counted.roofline(device.limits, gpus=gpus, link_bytes_per_sec=device.link_bytes_per_sec)
    about = {
        "config": name,
        "device": device.name,
        "source": device.source,
        "gpus": gpus,
        "batch": roofline.images,
        "precision": job.config.perf.precision,
        "stand_ins": " and ".join(job.stand_ins) or None,
    }
    for phase in roofline.phases.values():
        results.add({**about, **asdict(phase), "floor_sec_per_kimg": roofline.sec_per_kimg(phase.phase)})
    frequency = job.config.smart.frequency
    results.add(
        {
            **about,
            "phase": "all",
            "flops_per_kimg": roofline.flops_per_kimg,
            "floor_sec": roofline.sec_per_kimg() * roofline.images / 1000,
            "floor_sec_per_kimg": roofline.sec_per_kimg(),
            "frequency": frequency,
            "score_overhead": roofline.score_overhead(frequency) if frequency else None,
        }
    )
