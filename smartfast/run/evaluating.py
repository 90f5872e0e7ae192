"""The process that evaluates beside a training: `python -m smartfast.run.evaluating FOLDER PID`; see run/beside.py."""

import json
import os
import sys
import warnings
from pathlib import Path

import torch

from smartfast.config.parse import load_config
from smartfast.core.files import write_atomically
from smartfast.core.interruption import end_with_parent, ignore_signals
from smartfast.core.output import one_line_warning
from smartfast.data import open_dataset
from smartfast.data.holdout import split
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.kernels import switch_off
from smartfast.metrics import MetricUnavailable, evaluate
from smartfast.run.beside import CHECKPOINT, FAILURE, REQUEST, VALUES
from smartfast.run.launch import chosen_kernels
from smartfast.run.performance import set_up_arithmetic
from smartfast.run.resume import CONFIG_FILE

_NICENESS = 10  # training comes first on cores that they share


def values_of(folder: Path) -> dict[str, float]:
    """The metrics of a request, as the training itself would compute them.

    Raises:
        MetricUnavailable, UserError: As `evaluate`.
    """
    request = json.loads((folder / REQUEST).read_text())
    config = load_config(folder.parents[1] / CONFIG_FILE)
    device = torch.device(request["device"])
    set_up_arithmetic(config, device, request["processes"])
    for op, reason in request["switched_off"].items():
        switch_off(op, reason)
    dataset = open_dataset(config.data)
    labels = split(dataset, config.data.holdout)[0].labels
    sampler = open_sampler(folder / CHECKPOINT / "generator_ema.safetensors", device)
    if config.perf.channels_last:
        for parameter in sampler.module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    sampler = sampler.of_data(None if labels is None else labels.to(device), seed=config.run.seed)
    with chosen_kernels(config):
        return evaluate(sampler, dataset, config.metrics, device=device, progress=False)


def main(folder: Path, parent: int) -> int:
    """Evaluate a request and leave the values in its folder, or why there are none.

    Args:
        folder: Of the request.
        parent: Pid of the training: one that is killed cannot end what it has started.

    Returns:
        The exit status.
    """
    ignore_signals()
    end_with_parent(parent)
    warnings.formatwarning = one_line_warning
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    try:
        values = values_of(folder)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        write_atomically(folder / FAILURE, reason.encode(errors="replace"))
        if isinstance(error, MetricUnavailable | UserError):
            return 1
        raise
    write_atomically(folder / VALUES, json.dumps(values).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
