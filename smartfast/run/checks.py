"""Checks of a configuration that need more than one field; all of them before anything is trained."""

import importlib.util
import os
import warnings
from dataclasses import fields

import torch

from smartfast.config.augment import ADA_KIMG, AugmentConfig
from smartfast.config.parse import CONFIGS
from smartfast.config.ranges import in_range
from smartfast.config.schedule import Schedule
from smartfast.config.schema import Config, SmartConfig
from smartfast.core.draws import are_vectors
from smartfast.core.plane import PREFIX, SHAPES
from smartfast.data import ImageDataset
from smartfast.data.dataset import DIGITS
from smartfast.data.planned import is_missing
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.metrics.extractors import check_features
from smartfast.metrics.names import computed_metrics

_OF_ADA = ("target", "kimg", "interval", "max_p")


def check_settings(config: Config, *, num_processes: int) -> None:
    """Raise UserError, one line, for the first setting that cannot work whatever the data."""
    in_range(config)  # again, for configurations that come from no command line
    FAMILIES[config.gan.family].check_settings(config, images_at_a_time(config, num_processes))
    _warn_of_idle(config)
    _check_augmentation(config.augment, config.gan.family)
    _check_balance(config.smart)
    if config.metrics.every_ticks and not config.metrics.names:
        raise UserError("metrics.names is [], expected one or more of them, or metrics.every_ticks 0")
    _check_best(config)
    cpus, threads = os.cpu_count() or 1, config.perf.cpu_threads or 1
    if threads > cpus:
        raise UserError(f"perf.cpu_threads is {threads}, expected at most the {cpus} processors of this machine")


def _warn_of_idle(config: Config) -> None:
    for name, instead in FAMILIES[config.gan.family].idle(config).items():
        group, _, field = name.partition(".")
        settings = getattr(config, group)
        if getattr(settings, field) != getattr(type(settings)(), field):
            warnings.warn(f"{name} is set but does nothing here: {instead}", stacklevel=2)


def _check_best(config: Config) -> None:
    name, computed = config.run.keep_best, computed_metrics(config.metrics.names, config.metrics.features)
    if name is None:
        return
    if not config.metrics.every_ticks:
        raise UserError("metrics.every_ticks is 0, expected a number above 0 with run.keep_best")
    if name not in computed:
        raise UserError(f"run.keep_best is {name}, expected one of {', '.join(computed)}: those of metrics.names")


def _check_augmentation(augment: AugmentConfig, family: str) -> None:
    if augment.mode == "off":
        changed = _changed(augment)
        if changed:
            unset = " ".join(f"--augment.{name} {_word(getattr(AugmentConfig(), name))}" for name in changed)
            raise UserError(
                f"augment.{changed[0]} is set but augment.mode is off, expected fixed or ada, or with it {unset}"
            )
    elif not FAMILIES[family].augments:
        raise UserError(f"augment.mode is {augment.mode}, expected off: {family} has no discriminator that sees images")
    elif augment.mode == "fixed" and (changed := [name for name in _changed(augment) if name in _OF_ADA]):
        raise UserError(f"augment.{changed[0]} is set but augment.mode is fixed, expected ada")
    elif augment.mode == "fixed" and augment.p is None and augment.pipe != "diff":
        raise UserError("augment.p is unset, expected a probability with augment.mode fixed")
    elif augment.mode == "ada" and isinstance(augment.p, Schedule):
        raise UserError("augment.p is a schedule, expected a number with augment.mode ada, or augment.mode fixed")


def _changed(augment: AugmentConfig) -> list[str]:
    """What is not its default, the mode aside."""
    usual = AugmentConfig(augment.mode, kimg=ADA_KIMG if augment.kimg == ADA_KIMG else None)  # which unset means
    return [field.name for field in fields(augment) if getattr(augment, field.name) != getattr(usual, field.name)]


def _word(value: object) -> str:
    return "null" if value is None else str(value)


def _check_balance(smart: SmartConfig) -> None:
    if smart.balance is None:
        return
    if isinstance(smart.weight, Schedule):
        raise UserError("smart.weight is a schedule, expected a number with smart.balance, which moves it")
    if smart.weight == 0:
        raise UserError("smart.weight is 0, expected more than 0 with smart.balance, which multiplies it")


def check_config(config: Config, dataset: ImageDataset, *, device: torch.device) -> None:
    """Raise UserError, one line, for the first setting that does not fit the data or the device."""
    _check_points(config, dataset)
    _check_vectors(config, dataset)
    FAMILIES[config.gan.family].check_data(config, dataset)
    _check_classes(config, dataset)
    _check_downscale(config, dataset)
    if not config.run.dry_run:
        _check_performance(config, device)
        _check_tracker(config)


def check_data_path(config: Config) -> None:
    """Raise UserError, one line that says how data are packed, if data.path names a .zip that is not there."""
    path, resolution = config.data.path, config.data.resolution
    if path.endswith(".zip") and resolution and is_missing(config.data):
        raise UserError(
            f"data.path: {path} does not exist; make it of a folder, zip or npz of images with `smartfast dataset "
            f"--source IMAGES --dest {path} --resolution {resolution}` (what the images of a preset are and where they "
            f"come from is said in its file in {CONFIGS})"
        )


def images_at_a_time(config: Config, num_processes: int) -> int:
    """Images of a round of gradient accumulation in one process.

    Raises:
        UserError: The batch cannot be shared so.
    """
    batch = config.optim.batch
    if batch % num_processes:
        raise UserError(f"optim.batch is {batch}, expected a multiple of the {num_processes} processes")
    local = batch // num_processes
    size = config.optim.images_at_a_time(local)
    if local % size:
        raise UserError(
            f"optim.batch_gpu is {size}, expected a divisor of the {local} images per process and iteration"
        )
    return size


def _check_classes(config: Config, dataset: ImageDataset) -> None:
    expected = config.data.classes
    if config.data.labels and expected not in (None, dataset.num_classes):
        raise UserError(
            f"data.path {config.data.path}: {dataset.num_classes} classes, expected data.classes {expected}: "
            "data.classes null takes any number, data.labels false trains without"
        )


def _check_points(config: Config, dataset: ImageDataset) -> None:
    has_points, takes_points = dataset.channels == 2, FAMILIES[config.gan.family].takes_points
    if has_points != takes_points:
        expected = ", ".join(PREFIX + name for name in SHAPES) if takes_points else "images"
        raise UserError(f"data.path is {config.data.path}, expected {expected} with gan.family {config.gan.family}")
    if config.metrics.every_ticks:
        check_features(config.metrics, dataset)
        if config.metrics.features == DIGITS != dataset.name:
            warnings.warn(
                f"metrics.features digits are those of a classifier of handwritten digits, of which {dataset.name} has "
                "perhaps none: inception says more of other images",
                stacklevel=2,
            )


def _check_vectors(config: Config, dataset: ImageDataset) -> None:
    family = config.gan.family
    if are_vectors(dataset.labels) and not FAMILIES[family].takes_vectors:
        raise UserError(
            f"data.labels is true, expected false: {dataset.name} has label vectors, gan.family {family} takes classes"
        )


def _check_downscale(config: Config, dataset: ImageDataset) -> None:
    factor = config.smart.downscale
    if config.smart.frequency and dataset.resolution % factor:
        raise UserError(f"smart.downscale is {factor}, expected a divisor of the resolution {dataset.resolution}")
    crop = config.smart.crop
    if config.smart.frequency and crop is not None and (crop > dataset.resolution or factor > 1):
        words = "unset with smart.downscale" if factor > 1 else f"at most the resolution {dataset.resolution}"
        raise UserError(f"smart.crop is {crop}, expected {words}")


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
        raise UserError("run.tracker is wandb, expected an installed wandb (pip install wandb) or tensorboard")
