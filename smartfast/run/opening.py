"""Opens what a run's configuration names: the data, the scorer, as many images at a time as fit; every check of it."""

import dataclasses
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from smartfast.config.schema import Config
from smartfast.core.distributed import processes_on_this_machine
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.planned import is_missing, planned_images
from smartfast.families import FAMILIES
from smartfast.run.checks import check_config, check_data_path, check_settings, images_at_a_time
from smartfast.run.fitting import fitting_images
from smartfast.run.memory import check_memory, forecast, memory_bytes
from smartfast.run.performance import set_up_arithmetic
from smartfast.run.scoring import open_scorer
from smartfast.scorers import Scorer, TimestepRange


class Opened(NamedTuple):
    """What a configuration names. config: Itself, with a number for optim.batch_gpu auto; scorer, timesteps: Of the
    score term or of a family that distils, None = without."""

    config: Config
    dataset: ImageDataset
    scorer: Scorer | None
    timesteps: TimestepRange | None


def open_run(config: Config, accelerator: Accelerator) -> Opened:
    """Open data and scorer, with every check of the configuration.

    Raises:
        UserError: One line, for the first thing that cannot work.
    """
    check_settings(config, num_processes=accelerator.num_processes)
    set_seed(config.run.seed)
    processes = processes_on_this_machine()
    set_up_arithmetic(config, accelerator.device, processes)
    planned = planned_images(config.data) if config.run.dry_run and is_missing(config.data) else None
    if planned is None:
        check_data_path(config)
    dataset = planned or open_dataset(config.data)
    check_config(config, dataset, device=accelerator.device)
    is_fitted = config.optim.batch_gpu == "auto"
    if not is_fitted:
        _check_memory(config, accelerator, dataset, processes)
    scorer, timesteps = None, None
    if planned is not None:
        print(f"data: {dataset.name} is taken to be RGB; the scorer is left out")
    else:
        scorer, timesteps = open_scorer(config, dataset, accelerator.device, say=accelerator.print)
    if scorer is not None:
        FAMILIES[config.gan.family].check_scorer(config, scorer)
    if is_fitted:
        _, free_bytes = memory_bytes(accelerator.device)
        free_bytes //= processes if accelerator.device.type == "cpu" else 1
        local = images_at_a_time(config, accelerator.num_processes)
        fitting = fitting_images(config, dataset, scorer, timesteps, local=local, free_bytes=free_bytes)
        images = min(gather_object([fitting]))
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_gpu=images))
        accelerator.print(f"optim.batch_gpu auto: {images} of {local} images at a time")
        _check_memory(config, accelerator, dataset, processes)
    return Opened(config, dataset, scorer, timesteps)


def _check_memory(config: Config, accelerator: Accelerator, dataset: ImageDataset, processes: int) -> None:
    images = images_at_a_time(config, accelerator.num_processes)
    needed = forecast(config, dataset, images)
    accelerator.print(check_memory(config, needed, images, accelerator.device, processes))
