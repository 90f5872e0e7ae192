"""A training put back to where its run folder's newest checkpoint was."""

import math
from collections.abc import Callable
from pathlib import Path

from smartfast.core.checkpoint import Checkpoint, load_newest
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.run.training import Training


def restore_newest(
    training: Training, dataset: ImageDataset, run_dir: Path, say: Callable[[str], None]
) -> Checkpoint | None:
    """Put a run where its newest checkpoint was; returns that without its state, whose files are held open as long as
    it is there, or None where there is none.

    Raises:
        UserError: All are damaged, or the newest is of other data or networks.
    """
    checkpoint = load_newest(run_dir)
    if checkpoint is None:
        return None
    fingerprint = _fingerprint(checkpoint)
    is_known = dataset.was_recorded_as(fingerprint)
    if not is_known and training.config.run.allow_changes:
        say(f"resume: images of data.path: {fingerprint} -> {dataset.fingerprint}")
    elif not is_known:
        raise UserError(
            f"data.path {training.config.data.path}: found {dataset.fingerprint}, expected {fingerprint}, "
            f"the fingerprint of the run in {run_dir}; choose another run.dir, the old data, or run.allow_changes true"
        )
    try:
        training.restore(checkpoint.state, images=checkpoint.info["images"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path}: expected a checkpoint of these networks, found another ({error})"
        ) from error
    return checkpoint._replace(state={})


def _fingerprint(checkpoint: Checkpoint) -> str:
    """That of the data of the run, once the index has what else a resumed run takes from it."""
    info = checkpoint.info
    for name, is_right in (
        ("dataset", isinstance(info.get("dataset"), dict) and "fingerprint" in info["dataset"]),
        ("time_sec", isinstance(info.get("time_sec"), int | float) and math.isfinite(info["time_sec"])),
    ):
        if not is_right:
            found = str(info.get(name))[:40]
            raise UserError(f"{checkpoint.path}/checkpoint.json: {name} is {found}, expected what a training wrote")
    return info["dataset"]["fingerprint"]
