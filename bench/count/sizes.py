"""Trainings of usual sizes, and the calls of the ops that they make: measured, counted and compiled."""

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.base.jobs import job_config
from bench.base.paper_jobs import open_paper_job
from bench.count.layers import COMPOSITES, Case, enlarged, recorded_cases
from smartfast.config.schema import Config

BEYOND_CACHE_BYTES = {"cuda": 256 << 20, "cpu": 64 << 20}
WITHOUT_SCORE = "--smart.frequency=0"
PAPER = "lsun_bedroom256"
# Images of a usual batch on one GPU; the last two are no presets: ADA's `auto` at 128 and `stylegan2` at 1024 pixels.
SIZES: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar10", "--optim.batch=64", "--augment.mode=off"),
    "imagenet64": ("imagenet64", "--optim.batch=32"),
    "lsun_bedroom256": (PAPER, "--optim.batch=16"),
    "stylegan2_128": (PAPER, "--data.resolution=128", "--optim.batch=32", WITHOUT_SCORE),
    "stylegan2_1024": (
        *(PAPER, "--data.resolution=1024", "--optim.batch=4", WITHOUT_SCORE),
        *("--gan.channel_base=32768", "--gan.mbstd_group=4"),
    ),
}


def suite_config(name: str, device_type: str, overrides: Sequence[str] = ()) -> Config:
    """The training whose calls are measured; on a CPU, which computes half precision in float32, all in float32.

    Args:
        name: A preset, a YAML file, or one of the suite's own: stylegan2_128, stylegan2_1024.
        device_type: cuda or cpu.
        overrides: Options of `smartfast train` over it.

    Raises:
        UserError: As `job_config`.
    """
    preset, *sizes = SIZES.get(name, (name,))
    precision = () if device_type == "cuda" else ("--perf.precision=fp32",)
    return job_config(preset, [*sizes, *precision, *overrides])


@functools.cache
def usual_cases(name: str, device_type: str, overrides: tuple[str, ...] = ()) -> tuple[Case, ...]:
    """The calls of a training, each different one once; arguments as `suite_config`.

    Raises:
        UserError: As `open_paper_job`.
    """
    config = suite_config(name, device_type, overrides)
    job = open_paper_job(config, device=torch.device("cpu"), counted_for_gpu=device_type == "cuda")
    return tuple(recorded_cases(job))


@functools.cache
def suite_cases(name: str, device_type: str, overrides: tuple[str, ...] = ()) -> tuple[Case, ...]:
    """`usual_cases`, large ones first, then ops without products beyond cache."""
    layers = sorted(usual_cases(name, device_type, overrides), key=_input_bytes, reverse=True)
    return (*layers, *_beyond_cache(layers, device_type))


def _input_bytes(case: Case) -> int:
    return sum(value.nbytes for value in case.arguments.values() if isinstance(value, Tensor))


def _beyond_cache(layers: Sequence[Case], device_type: str) -> Iterator[Case]:
    """The largest layer of every op without matrix products, with a batch that no cache holds."""
    for op in sorted({case.op for case in layers} - set(COMPOSITES)):
        largest = max((case for case in layers if case.op == op), key=lambda case: case.x.nbytes)
        factor = math.ceil(BEYOND_CACHE_BYTES[device_type] / max(largest.x.nbytes, 1))
        if factor > 1:
            yield enlarged(largest, factor)
