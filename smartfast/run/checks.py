"""Checks of a configuration that need more than one field; all of them before anything is trained."""

import importlib.util

import torch

from smartfast.config.ranges import in_range
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families import FAMILIES


def check_settings(config: Config, *, num_processes: int) -> None:
    """Raise UserError, one line, for the first setting that cannot work whatever the data."""
    in_range(config)  # again, for configurations that come from no command line
    size = _images_at_a_time(config, num_processes)
    FAMILIES[config.gan.family].check_settings(config, size)


def check_config(config: Config, dataset: ImageDataset, *, device: torch.device) -> None:
    """Raise UserError, one line, for the first setting that does not fit the data or the device."""
    FAMILIES[config.gan.family].check_data(config, dataset)
    _check_downscale(config, dataset)
    if not config.run.dry_run:
        _check_performance(config, device)
        _check_tracker(config)


def _images_at_a_time(config: Config, num_processes: int) -> int:
    """Images of a round of gradient accumulation in one process."""
    batch = config.optim.batch
    if batch % num_processes:
        raise UserError(f"optim.batch is {batch}, expected a multiple of the {num_processes} processes")
    local = batch // num_processes
    size = config.optim.batch_gpu or local
    if local % size:
        raise UserError(
            f"optim.batch_gpu is {size}, expected a divisor of the {local} images per process and iteration"
        )
    return size


def _check_downscale(config: Config, dataset: ImageDataset) -> None:
    factor = config.smart.downscale
    if config.smart.frequency and dataset.resolution % factor:
        raise UserError(f"smart.downscale is {factor}, expected a divisor of the resolution {dataset.resolution}")


def _check_performance(config: Config, device: torch.device) -> None:
    perf = config.perf
    if perf.cuda_graphs and device.type != "cuda":
        raise UserError(f"perf.cuda_graphs is true, expected false on {device.type}: CUDA graphs need a GPU")
    if perf.precision == "fp16" and device.type == "cpu":
        raise UserError("perf.precision is fp16, expected fp32 or bf16 on a CPU")
    if perf.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("perf.precision is bf16, expected fp16, tf32 or fp32 on this GPU")


def _check_tracker(config: Config) -> None:
    if config.run.tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "run.tracker is wandb, expected an installed wandb (pip install 'smartfast[wandb]') or tensorboard"
        )
