"""A training as a command line means it, for what is asked of it but trained: its calls, its compiled code."""

import dataclasses
from collections.abc import Callable

import torch

from smartfast.config.schema import Config
from smartfast.data import open_dataset
from smartfast.data.planned import is_missing, planned_images
from smartfast.errors import UserError
from smartfast.run.performance import set_up_arithmetic, with_arithmetic, with_preset
from smartfast.run.scoring import open_scorer
from smartfast.run.training import Training


def trial_training(config: Config, device: torch.device, say: Callable[[str], None]) -> Training:
    """The training at its start, in one process; where its data are not there, of stand-ins and without a score term.

    Raises:
        UserError: Neither the data nor their size and classes are known, or the scorer cannot be used.
    """
    config, lines = with_arithmetic(config, device)
    perf, more = with_preset(config.perf, device)
    config = dataclasses.replace(config, perf=perf)
    for line in lines + more:
        say(line)
    set_up_arithmetic(config, device, 1)
    if is_missing(config.data):
        dataset = planned_images(config.data)
        if dataset is None:
            raise UserError(f"data.path: {config.data.path} does not exist, expected data.resolution and data.classes")
        say(f"data: {dataset.name} is taken to be RGB; the score term is left out")
        return Training(config, dataset, device=device, say=say)
    dataset = open_dataset(config.data)
    scorer, timesteps = open_scorer(config, dataset, device)
    return Training(config, dataset, scorer=scorer, timesteps=timesteps, device=device, say=say)
