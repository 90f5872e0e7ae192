"""Training jobs for measurements: a configuration's networks, data and scorer, or stand-ins of the same shapes."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from smartfast.config import Config
from smartfast.data import ImageDataset, RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.launch import open_scorer, set_up_arithmetic
from smartfast.scorers import Scorer, TimestepRange
from smartfast.settings import parse_config
from smartfast.trainer import real_batches
from smartfast.training import Training

# Architectures of google/ddpm-cifar10-32, of a network like ADM's for 64x64 and of google/ddpm-bedroom-256.
_PLAIN, _ATTENTION = "DownBlock2D", "AttnDownBlock2D"
_UNETS: dict[int, dict[str, Any]] = {
    32: {"block_out_channels": (128, 256, 256, 256), "down": (_PLAIN, _ATTENTION, _PLAIN, _PLAIN)},
    64: {"block_out_channels": (192, 384, 576, 768), "down": (_PLAIN, _ATTENTION, _ATTENTION, _ATTENTION)},
    256: {"block_out_channels": (128, 128, 256, 256, 512, 512), "down": (*[_PLAIN] * 4, _ATTENTION, _PLAIN)},
}
_CLASSES = {32: 10, 64: 1000}
_STAND_IN_SIGNAL = (0.05, 0.2)


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
        return real_batches(training, self.dataset)


def job_config(name: str, options: Sequence[str]) -> Config:
    """A preset or YAML file with dotted options over it (`--optim.batch=8`); raises UserError."""
    return parse_config(["--config", name, *options])


def open_job(config: Config, *, device: torch.device, stand_ins: bool = False) -> Job:
    """Open data and scorer.

    Args:
        config: Of the run.
        device: Where it runs.
        stand_ins: Where the data or the scorer cannot be had here, take random images and a diffusion model with random
            weights of the usual architecture for the resolution, which cost the same.

    Raises:
        UserError: As `smartfast train`.
    """
    set_up_arithmetic(config, device, num_processes=1)
    replaced: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if stand_ins and not (config.data.path == "digits" or Path(config.data.path).exists()):
            config = _stand_in_data(config, Path(folder))
            replaced.append("random images")
        dataset = open_dataset(config.data)
        try:
            scorer, timesteps = open_scorer(config, dataset, device)
        except UserError:
            if not stand_ins or dataset.resolution not in _UNETS:
                raise
            config = _stand_in_scorer(config, dataset, Path(folder))
            replaced.append("a scorer with random weights")
            scorer, timesteps = open_scorer(config, dataset, device)
    return Job(config, dataset, scorer, timesteps, device, tuple(replaced))


def _stand_in_data(config: Config, folder: Path) -> Config:
    resolution = config.data.resolution
    if resolution is None:
        raise UserError("data.resolution is not set, expected one, since data.path is not there")
    classes = _CLASSES.get(resolution, 0) if config.data.labels else 0
    images = max(classes, config.optim.batch)
    pixels = np.random.default_rng(0).integers(0, 256, (images, resolution, resolution, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(images) % max(classes, 1))
    return replace(config, data=replace(config.data, path=str(folder / "images.npz"), labels=bool(classes)))


def _stand_in_scorer(config: Config, dataset: ImageDataset, folder: Path) -> Config:
    resolution = dataset.resolution // config.smart.downscale
    architecture = _UNETS[resolution]
    network = UNet2DModel(
        sample_size=resolution,
        in_channels=dataset.channels,
        out_channels=dataset.channels,
        block_out_channels=architecture["block_out_channels"],
        down_block_types=architecture["down"],
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(architecture["down"])),
    )
    for part in (network, DDPMScheduler()):
        part.save_pretrained(folder / "scorer")  # type: ignore[union-attr]  # diffusers loads its classes lazily
    smart = replace(config.smart, scorer=str(folder / "scorer"), timesteps=None, noise_to_signal=_STAND_IN_SIGNAL)
    return replace(config, smart=smart)
