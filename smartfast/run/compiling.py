"""The process that compiles beside a training: `python -m smartfast.run.compiling FOLDER REQUEST PID`.

See smartfast/run/background.py. What it compiles is kept on the disk, where the training then finds it.
"""

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from smartfast.config.parse import load_config
from smartfast.core.interruption import end_with_parent, ignore_signals
from smartfast.core.output import one_line_warning
from smartfast.kernels import switch_off
from smartfast.run.launch import chosen_kernels
from smartfast.run.performance import with_preset
from smartfast.run.preparation import decisions_of, is_tuned, mode_of
from smartfast.run.resume import CONFIG_FILE
from smartfast.run.trial_training import trial_training
from smartfast.run.warm_up import held


def compile_phases(folder: Path, request: dict[str, Any]) -> None:
    """Run every phase of a run folder's training once, compiled; what comes out of it is of no interest.

    Raises:
        UserError: Its data or scorer cannot be opened any more.
    """
    device = torch.device(request["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    if request["processes"] > 1:
        _pretend_to_be_one_of_several(request["process"], request["processes"])
    for op, reason in request["switched_off"].items():
        switch_off(op, reason)
    config = load_config(folder / CONFIG_FILE)
    training = trial_training(
        dataclasses.replace(config, perf=dataclasses.replace(config.perf, cuda_graphs=False)),
        device,
        print,
        process_index=request["process"],
        num_processes=request["processes"],
        processes_here=request["processes_here"],
    )
    if is_tuned(training):  # by the times that the training itself goes by, which captures what is compiled here
        perf, _ = with_preset(config.perf, device)
        decisions_of(training, print, mode=mode_of(perf), budget_sec=0).apply()
    training.scalars.set(training.images)
    with chosen_kernels(training.config):
        for step, *_ in training.turn_steps.values():
            with held(training):
                step()


def _pretend_to_be_one_of_several(process: int, processes: int) -> None:
    """For phases that average over the processes of a training, which this one is not."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=process, world_size=processes, store=FakeStore())


def main(folder: Path, request: dict[str, Any], parent: int) -> None:
    """Compile for the training in a run folder.

    Args:
        folder: Of the run.
        request: What the training's process is; see `BackgroundCompilation`.
        parent: Pid of the training: one that is killed cannot end what it has started.
    """
    ignore_signals()
    end_with_parent(parent)
    warnings.formatwarning = one_line_warning
    compile_phases(folder, request)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
