"""A training as a command line means it, for what is asked of it but trained: its calls, its compiled code."""

import dataclasses
from collections.abc import Callable

import torch

from smartfast.config.schema import Config
from smartfast.data import open_dataset
from smartfast.data.holdout import split
from smartfast.data.planned import is_missing, planned_images
from smartfast.errors import UserError
from smartfast.run.performance import set_up_arithmetic, with_arithmetic, with_preset
from smartfast.run.scoring import open_scorer
from smartfast.run.training import Training


def trial_training(
    config: Config,
    device: torch.device,
    say: Callable[[str], None],
    *,
    process_index: int = 0,
    num_processes: int = 1,
    processes_here: int = 1,
) -> Training:
    """The training at its start; where its data are not there, of stand-ins and without a score term.

    Args:
        config: Of the training.
        device: Where everything lives.
        say: Receives lines, of compilations too.
        process_index, num_processes: Whose part of a batch it has; processes_here: How many share the CPU's cores.

    Raises:
        UserError: Neither the data nor their size and classes are known, or the scorer cannot be used.
    """
    config, lines = with_arithmetic(config, device)
    perf, more = with_preset(config.perf, device)
    config = dataclasses.replace(config, perf=perf)
    for line in lines + more:
        say(line)
    set_up_arithmetic(config, device, processes_here)
    scorer, timesteps = None, None
    if not is_missing(config.data):
        dataset = open_dataset(config.data)
        scorer, timesteps = open_scorer(config, dataset, device)
    elif (planned := planned_images(config.data)) is not None:
        dataset = planned
        say(f"data: {dataset.name} is taken to be RGB; the score term is left out")
    else:
        raise UserError(f"data.path: {config.data.path} does not exist, expected data.resolution and data.classes")
    part, held_out = split(dataset, config.data.holdout)
    return Training(
        config,
        part,
        scorer=scorer,
        timesteps=timesteps,
        held_out=held_out,
        device=device,
        process_index=process_index,
        num_processes=num_processes,
        say=say,
    )
