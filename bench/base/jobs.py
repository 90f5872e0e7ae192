"""Training jobs for measurements: a configuration's networks, data and scorer, and the loop that advances them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.base.options import Options
from smartfast.config.parse import parse_config
from smartfast.config.schema import Config
from smartfast.data import ImageDataset, RealBatch, open_dataset
from smartfast.run.performance import set_up_arithmetic
from smartfast.run.scoring import open_scorer
from smartfast.run.training import Training, real_batches
from smartfast.scorers import Scorer, TimestepRange

PRESETS = {"cuda": ("cifar10", "imagenet64", "lsun_bedroom256", "digits"), "cpu": ("digits",)}
"""Presets that are measured on a device: those of the targets, the quickest first, then the small one."""

BATCH_GPU = {"lsun_bedroom256": 8}
"""Images at a time where a batch with the paper's scorer does not fit on an 80 GB GPU, by our estimate."""

QUICK_BATCH = 8
QUICK = {"stylegan2": ("--gan.channel_base=64", "--gan.channel_max=16", "--gan.mbstd_group=4")}
"""With --quick, narrow networks, by family; of others the networks as they are."""

EAGER: dict[str, Any] = {"compile": False, "cuda_graphs": False}
"""Perf settings of the slowest way to train."""


@dataclass(frozen=True)
class Job:
    """What a `Training` is made of. stand_ins: What was replaced by something of the same shape, in words."""

    config: Config
    dataset: ImageDataset
    scorer: Scorer | None
    timesteps: TimestepRange | None
    device: torch.device
    stand_ins: tuple[str, ...] = ()

    def training(self, **perf: Any) -> Training:
        """A new run from the seed's start; `perf` changes fields of the perf settings."""
        config = replace(self.config, perf=replace(self.config.perf, **perf))
        return Training(
            config,
            self.dataset,
            scorer=self.scorer,
            timesteps=self.timesteps,
            device=self.device,
            say=lambda line: print(line, flush=True),
        )

    def batches(self, training: Training) -> Iterator[RealBatch]:
        """The real images of a run from where it is, as the trainer takes them."""
        return real_batches(training)

    def about(self, name: str) -> dict[str, Any]:
        """What all rows of results say of a job, by the name of its configuration."""
        return {
            "config": name,
            "resolution": self.dataset.resolution,
            "batch": self.config.optim.batch,
            "batch_gpu": self.config.optim.batch_gpu,
            "dtype": self.config.perf.precision,
            "stand_ins": " and ".join(self.stand_ins) or None,
        }

    def fast_perf(self) -> dict[str, Any]:
        """Perf settings of the fastest way to train: compiled, on CUDA captured in graphs too."""
        return {"compile": self.config.perf.compile or True, "cuda_graphs": self.device.type == "cuda"}


class Loop:
    """One training that advances by iterations as the trainer's loop does, without snapshots and metrics.

    Args:
        job: What to train.
        perf: Changed fields of the perf settings.
    """

    def __init__(self, job: Job, **perf: Any) -> None:
        self.training = job.training(**perf)
        self.batches = job.batches(self.training)

    def iterate(self, iterations: int) -> None:
        """Run some iterations; on CUDA this does not wait for the device."""
        for _ in range(iterations):
            with self.training.timer("data"):
                batch = next(self.batches)
            self.training.run_iteration(batch)


def settings(name: str, options: Options, *more: str) -> tuple[str, ...]:
    """Options of `smartfast train` for a configuration; those that the user gave come last and win."""
    batch_gpu = BATCH_GPU.get(Path(name).stem) if options.device.type == "cuda" else None
    small = [f"--optim.batch_gpu={batch_gpu}"] if batch_gpu else []
    if options.quick:
        family = job_config(name, options.overrides).gan.family
        small += [f"--optim.batch={QUICK_BATCH}", *QUICK.get(family, ())]
    return (*small, *more, *options.overrides)


def job_config(name: str, options: Sequence[str]) -> Config:
    """A preset or YAML file with dotted options over it (`--optim.batch=8`); raises UserError."""
    return parse_config(["--config", name, *options])


def open_job(config: Config, *, device: torch.device) -> Job:
    """Open data and scorer as `smartfast train` does, which also says what raises UserError."""
    set_up_arithmetic(config, device, num_processes=1)
    dataset = open_dataset(config.data)
    scorer, timesteps = open_scorer(config, dataset, device)
    return Job(config, dataset, scorer, timesteps, device)
