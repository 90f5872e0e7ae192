"""Jobs with the scorers of SMaRt's experiments, the same on every machine whatever it has or can download."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.base.jobs import Job, open_job
from bench.base.scorer_architectures import ARCHITECTURES, architecture_for, paper_schedule, random_unet, scorer_of
from bench.base.ways import float32_products
from smartfast import kernels
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.scorers import Scorer, check_scorer, load_scorer, timestep_range
from smartfast.scorers.loading import BUNDLED, scorer_dtype

_CLASSES = {32: 10, 64: 1000, 128: 1000}


def open_paper_job(config: Config, *, device: torch.device, counted_for_gpu: bool = False) -> Job:
    """As `open_job`; where the data cannot be had here, random images take their place.

    The scorer is a bundled one, or else the paper's for the resolution with random weights, which costs the same.

    Args:
        config: Of the run.
        device: Where it runs.
        counted_for_gpu: The job is only counted, not run: what a GPU would do in half precision is in half precision,
            and the scorer's weights are not even random.

    Raises:
        UserError: As `smartfast train`, or there is no architecture for the resolution.
    """
    smart = config.smart
    stand_ins: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if config.data.path != "digits" and not Path(config.data.path).exists():
            config = _with_random_images(config, Path(folder))
            stand_ins.append("random images")
        job = open_job(replace(config, smart=replace(smart, frequency=0)), device=device)
    if not smart.frequency:
        return replace(job, stand_ins=tuple(stand_ins))
    if counted_for_gpu and smart.precision == "auto":
        smart = replace(smart, precision="bf16")
    config = replace(job.config, smart=smart)
    if smart.scorer in BUNDLED:
        attention = config.perf.attention
        scorer = load_scorer(smart.scorer, device=device, precision=smart.precision, attention=attention)
    else:
        scorer = _paper_scorer(config, job.dataset.resolution, device, is_counted=counted_for_gpu)
        stand_ins.append(f"{ARCHITECTURES[job.dataset.resolution].name} with random weights")
    _check_fit(scorer, job.dataset, config)
    timesteps = timestep_range(scorer, smart)
    return replace(job, config=config, scorer=scorer, timesteps=timesteps, stand_ins=tuple(stand_ins))


@contextmanager
def trainer_settings(config: Config, device: torch.device) -> Iterator[None]:
    """Within it the process computes as `smartfast train` does: tf32, cuDNN's search for algorithms, kernels."""
    tf32 = device.type == "cuda" and config.perf.precision != "fp32"
    # auto leaves the choice to the environment variable SMARTFAST_KERNELS.
    chosen = nullcontext() if config.perf.kernels == "auto" else kernels.use(config.perf.kernels)
    with float32_products(tf32=tf32), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32), chosen:
        yield


def _with_random_images(config: Config, folder: Path) -> Config:
    resolution = config.data.resolution
    if resolution is None:
        raise UserError("data.resolution is not set, expected one, since data.path is not there")
    classes = _CLASSES.get(resolution, 0) if config.data.labels else 0
    images = max(classes, config.optim.batch)
    pixels = np.random.default_rng(0).integers(0, 256, (images, resolution, resolution, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(images) % max(classes, 1))
    return replace(config, data=replace(config.data, path=str(folder / "images.npz"), labels=bool(classes)))


def _paper_scorer(config: Config, data_resolution: int, device: torch.device, *, is_counted: bool) -> Scorer:
    architecture, smart = architecture_for(data_resolution), config.smart
    resolution, dtype = data_resolution // smart.downscale, scorer_dtype(device, smart.precision)
    # Half a billion numbers that nobody reads need not be drawn.
    unet = random_unet(architecture, resolution, torch.device("meta") if is_counted else device)
    if is_counted:
        nn.Module.to(unet, dtype=dtype).to_empty(device=device)
    return scorer_of(unet, paper_schedule(architecture), device, dtype=dtype, attention=config.perf.attention)


def _check_fit(scorer: Scorer, dataset: ImageDataset, config: Config) -> None:
    check_scorer(
        scorer,
        resolution=dataset.resolution,
        channels=dataset.channels,
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        name=config.smart.scorer or "the paper's",
        downscale=config.smart.downscale,
    )
