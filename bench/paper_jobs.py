"""Jobs with the scorers of SMaRt's experiments, the same on every machine whatever it has or can download."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import nn

from bench.jobs import Job, open_job
from bench.scorer_architectures import ARCHITECTURES, random_unet, scorer_of
from smartfast import kernels
from smartfast.config import Config
from smartfast.errors import UserError
from smartfast.scorers import Scorer, check_scorer, load_scorer, timestep_range
from smartfast.scorers.loading import BUNDLED, scorer_dtype
from smartfast.scorers.schedule import schedule_from_betas

PRESETS = ("digits", "cifar10", "imagenet64", "lsun_bedroom256")


def open_paper_job(config: Config, *, device: torch.device, counted_for_gpu: bool = False) -> Job:
    """As `open_job` with stand-ins; the scorer is a bundled one, or the paper's for the resolution with random weights.

    Args:
        config: Of the run.
        device: Where it runs.
        counted_for_gpu: The job is only counted, not run: what a GPU would do in half precision is in half precision,
            and the scorer's weights are not even random.

    Raises:
        UserError: As `smartfast train`, or there is no architecture for the resolution.
    """
    smart = config.smart
    job = open_job(replace(config, smart=replace(smart, frequency=0)), device=device, stand_ins=True)
    if not smart.frequency:
        return job
    if counted_for_gpu and smart.precision == "auto":
        smart = replace(smart, precision="bf16")
    config = replace(job.config, smart=smart)
    stand_ins = job.stand_ins
    if smart.scorer in BUNDLED:
        attention = config.perf.attention
        scorer = load_scorer(smart.scorer, device=device, precision=smart.precision, attention=attention)
    else:
        scorer = _paper_scorer(config, job.dataset.resolution, device, is_counted=counted_for_gpu)
        stand_ins = (*stand_ins, f"{ARCHITECTURES[job.dataset.resolution].name} with random weights")
    check_scorer(
        scorer,
        resolution=job.dataset.resolution,
        channels=job.dataset.channels,
        num_classes=job.dataset.num_classes,
        name=smart.scorer or "the paper's",
        downscale=smart.downscale,
    )
    return replace(job, config=config, scorer=scorer, timesteps=timestep_range(scorer, smart), stand_ins=stand_ins)


@contextmanager
def trainer_settings(config: Config, device: torch.device) -> Iterator[None]:
    """Within it the process computes as `smartfast train` does: tf32, cuDNN's search for algorithms, kernels."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    tf32 = device.type == "cuda" and config.perf.precision != "fp32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, True
    try:
        # auto leaves the choice to the environment variable SMARTFAST_KERNELS.
        with nullcontext() if config.perf.kernels == "auto" else kernels.use(config.perf.kernels):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


def _paper_scorer(config: Config, data_resolution: int, device: torch.device, *, is_counted: bool) -> Scorer:
    if data_resolution not in ARCHITECTURES:
        known = ", ".join(map(str, ARCHITECTURES))
        raise UserError(f"data.resolution is {data_resolution}, expected {known}, or a bundled smart.scorer")
    architecture, smart = ARCHITECTURES[data_resolution], config.smart
    resolution, dtype = data_resolution // smart.downscale, scorer_dtype(device, smart.precision)
    scheduler = DDPMScheduler(beta_schedule=architecture.schedule)
    schedule = schedule_from_betas(scheduler.betas, architecture.schedule)  # type: ignore[attr-defined]
    if is_counted:  # half a billion numbers that nobody reads need not be drawn
        unet: Any = random_unet(architecture, resolution, torch.device("meta"))
        nn.Module.to(unet, dtype=dtype).to_empty(device=device)
    else:
        unet = random_unet(architecture, resolution, device)
    return scorer_of(unet, schedule, device, dtype=dtype, attention=config.perf.attention)
