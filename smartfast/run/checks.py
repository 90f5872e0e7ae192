"""Checks of a configuration that need more than one field; all of them before anything is trained."""

import importlib.util
import os

import torch

from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.networks.stylegan2.layers import feature_maps


def check_settings(config: Config, *, num_processes: int) -> None:
    """Raise UserError, one line, for the first setting that cannot work whatever the data."""
    _check_ranges(config)
    _check_batch(config, num_processes)


def check_config(config: Config, dataset: ImageDataset, *, device: torch.device) -> None:
    """Raise UserError, one line, for the first setting that does not fit the data or the device."""
    _check_images(config, dataset)
    _check_downscale(config, dataset)
    _check_labels(config, dataset)
    if not config.run.dry_run:
        _check_performance(config, device)
        _check_tracker(config)


def _check_ranges(config: Config) -> None:
    run, gan, loss, smart, optim, metrics = (
        getattr(config, group) for group in ("run", "gan", "loss", "smart", "optim", "metrics")
    )
    positive = {"run.kimg": run.kimg, "run.tick_kimg": run.tick_kimg, "run.snapshot_ticks": run.snapshot_ticks}
    positive |= {"run.keep_checkpoints": run.keep_checkpoints, "run.max_bad_steps": run.max_bad_steps}
    positive |= {"optim.lr_g": optim.lr_g, "optim.lr_d": optim.lr_d, "optim.batch": optim.batch}
    positive |= {"gan.z_dim": gan.z_dim, "gan.w_dim": gan.w_dim, "gan.mbstd_group": gan.mbstd_group}
    positive |= {"gan.mapping_layers": gan.mapping_layers, "gan.d_mapping_layers": gan.d_mapping_layers}
    positive |= {"gan.mapping_lr_multiplier": gan.mapping_lr_multiplier, "gan.channel_max": gan.channel_max}
    positive |= {"loss.path_length_shrink": loss.path_length_shrink, "metrics.samples": metrics.samples}
    positive |= {"metrics.batch": metrics.batch, "perf.cpu_threads": config.perf.cpu_threads}
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} is {value}, expected more than 0")
    not_negative = {"smart.frequency": smart.frequency, "smart.weight": smart.weight, "loss.r1_gamma": loss.r1_gamma}
    not_negative |= {"loss.r1_interval": loss.r1_interval, "loss.path_length_interval": loss.path_length_interval}
    not_negative |= {"loss.path_length_weight": loss.path_length_weight, "metrics.every_ticks": metrics.every_ticks}
    not_negative |= {"gan.mbstd_channels": gan.mbstd_channels, "data.workers": config.data.workers}
    not_negative |= {"perf.profile": config.perf.profile}
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"{name} is {value}, expected 0 or more")
    if not 0 <= run.seed < 2**32:
        raise UserError(f"run.seed is {run.seed}, expected 0 to 2**32 - 1")
    if not 0 <= loss.style_mixing_prob <= 1:
        raise UserError(f"loss.style_mixing_prob is {loss.style_mixing_prob}, expected 0 to 1")
    if not 0 < smart.batch_fraction <= 1:
        raise UserError(f"smart.batch_fraction is {smart.batch_fraction}, expected more than 0 and at most 1")
    if smart.downscale < 1:
        raise UserError(f"smart.downscale is {smart.downscale}, expected 1 or more")
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas is {list(optim.betas)}, expected two numbers of at least 0 and below 1")
    maps = feature_maps(4, gan.channel_base, gan.channel_max)
    if gan.mbstd_channels and maps % gan.mbstd_channels:
        raise UserError(
            f"gan.mbstd_channels is {gan.mbstd_channels}, expected a divisor of the {maps} feature maps at 4x4"
        )


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


def _check_downscale(config: Config, dataset: ImageDataset) -> None:
    factor = config.smart.downscale
    if config.smart.frequency and dataset.resolution % factor:
        raise UserError(f"smart.downscale is {factor}, expected a divisor of the resolution {dataset.resolution}")


def _check_labels(config: Config, dataset: ImageDataset) -> None:
    if config.gan.mbstd_by_class and not dataset.num_classes:
        raise UserError("gan.mbstd_by_class is true, expected data.labels true with it")
    if config.gan.mbstd_by_class and config.optim.batch % config.gan.mbstd_group:
        raise UserError(
            f"gan.mbstd_group is {config.gan.mbstd_group}, expected a divisor of optim.batch {config.optim.batch}"
        )


def _check_performance(config: Config, device: torch.device) -> None:
    perf = config.perf
    if perf.cuda_graphs and device.type != "cuda":
        raise UserError(f"perf.cuda_graphs is true, expected false on {device.type}: CUDA graphs need a GPU")
    if perf.kernels == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(f"perf.kernels is triton, expected auto or reference on {device.type}: Triton needs a GPU")
    if perf.precision == "fp16" and device.type == "cpu":
        raise UserError("perf.precision is fp16, expected fp32 or bf16 on a CPU")
    if perf.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("perf.precision is bf16, expected fp16, tf32 or fp32 on this GPU")


def _check_tracker(config: Config) -> None:
    if config.run.tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "run.tracker is wandb, expected an installed wandb (pip install 'smartfast[wandb]') or tensorboard"
        )
