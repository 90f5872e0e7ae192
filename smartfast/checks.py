"""Checks of a configuration that need more than one field; all of them before anything is trained."""

import dataclasses
import importlib.util

import torch

from smartfast.config import Config
from smartfast.data import ImageDataset
from smartfast.errors import UserError


def check_config(config: Config, dataset: ImageDataset, *, device: torch.device, num_processes: int) -> None:
    """Raise UserError, one line, for the first setting that cannot work."""
    _check_lengths(config)
    _check_batch(config, num_processes)
    _check_images(config, dataset)
    _check_labels(config, dataset)
    if not config.run.dry_run:
        _check_performance(config, device)
        _check_tracker(config)


def check_resumed_config(saved: Config, config: Config, run_dir: str) -> None:
    """Raise UserError if networks or data differ from those of the run that is to be continued."""
    for group in ("gan", "data"):
        before, now = getattr(saved, group), getattr(config, group)
        for field in dataclasses.fields(before):
            old, new = getattr(before, field.name), getattr(now, field.name)
            if old != new and field.name not in ("cache", "workers", "path"):
                raise UserError(
                    f"{group}.{field.name} is {new}, but the run in {run_dir} was started with {old}; "
                    "choose another run.dir or the old value"
                )


def _check_lengths(config: Config) -> None:
    positive = {"run.kimg": config.run.kimg, "run.tick_kimg": config.run.tick_kimg}
    positive |= {"run.snapshot_ticks": config.run.snapshot_ticks, "run.keep_checkpoints": config.run.keep_checkpoints}
    positive |= {"optim.lr_g": config.optim.lr_g, "optim.lr_d": config.optim.lr_d, "optim.batch": config.optim.batch}
    positive |= {"gan.z_dim": config.gan.z_dim, "gan.w_dim": config.gan.w_dim}
    positive |= {"loss.path_length_shrink": config.loss.path_length_shrink}
    positive |= {"metrics.samples": config.metrics.samples, "metrics.batch": config.metrics.batch}
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"{name} is {value}, expected more than 0")
    not_negative = {"smart.frequency": config.smart.frequency, "smart.weight": config.smart.weight}
    not_negative |= {"loss.r1_interval": config.loss.r1_interval, "metrics.every_ticks": config.metrics.every_ticks}
    not_negative |= {
        "loss.path_length_interval": config.loss.path_length_interval,
        "loss.r1_gamma": config.loss.r1_gamma,
    }
    not_negative |= {"gan.mbstd_channels": config.gan.mbstd_channels, "run.seed": config.run.seed}
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"{name} is {value}, expected 0 or more")
    if not 0 <= config.loss.style_mixing_prob <= 1:
        raise UserError(f"loss.style_mixing_prob is {config.loss.style_mixing_prob}, expected 0 to 1")


def _check_batch(config: Config, num_processes: int) -> None:
    batch, gan = config.optim.batch, config.gan
    if batch % num_processes:
        raise UserError(f"optim.batch is {batch}, expected a multiple of the {num_processes} processes")
    local = batch // num_processes
    size = config.optim.batch_gpu or local
    if size <= 0 or local % size:
        raise UserError(
            f"optim.batch_gpu is {size}, expected a divisor of the {local} images per process and iteration"
        )
    if gan.mbstd_channels and size % min(gan.mbstd_group, size):
        raise UserError(f"gan.mbstd_group is {gan.mbstd_group}, expected a divisor of the {size} images at a time")


def _check_images(config: Config, dataset: ImageDataset) -> None:
    resolution = dataset.resolution
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(
            f"data.path {config.data.path}: images are {resolution} pixels wide, expected a power of two of at least 8 "
            "(`smartfast dataset` resizes)"
        )
    if config.gan.channel_base < resolution:
        raise UserError(f"gan.channel_base is {config.gan.channel_base}, expected at least the resolution {resolution}")


def _check_labels(config: Config, dataset: ImageDataset) -> None:
    if config.gan.mbstd_by_class and not dataset.num_classes:
        raise UserError("gan.mbstd_by_class is true, expected data.labels true with it")
    if config.gan.mbstd_by_class and config.optim.batch % config.gan.mbstd_group:
        raise UserError(
            f"gan.mbstd_group is {config.gan.mbstd_group}, expected a divisor of optim.batch {config.optim.batch}"
        )


def _check_performance(config: Config, device: torch.device) -> None:
    perf = config.perf
    if perf.cuda_graphs:
        raise UserError(
            f"perf.cuda_graphs is true, expected false: CUDA graphs are not implemented yet (device {device.type})"
        )
    if perf.precision == "fp16" and device.type == "cpu":
        raise UserError("perf.precision is fp16, expected fp32 or bf16 on a CPU")
    if perf.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("perf.precision is bf16, expected fp16, tf32 or fp32 on this GPU")


def _check_tracker(config: Config) -> None:
    if config.run.tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "run.tracker is wandb, expected an installed wandb (pip install 'smartfast[wandb]') or tensorboard"
        )
