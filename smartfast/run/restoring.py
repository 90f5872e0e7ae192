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
        UserError: All are damaged, or the newest is of other data, of another scorer or of other networks.
    """
    checkpoint = load_newest(run_dir)
    if checkpoint is None:
        return None
    for line in _changed_files(training, dataset, checkpoint, run_dir):
        say(line)
    try:
        training.restore(checkpoint.state, images=checkpoint.info["images"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path}: expected a checkpoint of these networks, found another ({error})"
        ) from error
    return checkpoint._replace(state={})


def _changed_files(training: Training, dataset: ImageDataset, checkpoint: Checkpoint, run_dir: Path) -> list[str]:
    """Lines that say which files are others than the run's, where run.allow_changes lets them be."""
    config, scorer = training.config, training.scorer
    recorded, lines = _fingerprint(checkpoint), []
    changed: list[tuple[str, str | None, str, str | None]] = []
    if not dataset.was_recorded_as(recorded):
        changed.append(("data.path", config.data.path, recorded, dataset.fingerprint))
    of_scorer = checkpoint.info.get("scorer")  # older checkpoints do not say
    if scorer is not None and of_scorer not in (None, scorer.fingerprint):
        changed.append(("smart.scorer", config.smart.scorer, of_scorer, scorer.fingerprint))
    for option, name, expected, found in changed:
        if not config.run.allow_changes:
            raise UserError(
                f"{option} {name}: found {found}, expected {expected}, the fingerprint of the run in {run_dir}; "
                "choose another run.dir, the old files, or run.allow_changes true"
            )
        lines.append(f"resume: files of {option}: {expected} -> {found}")
    return lines


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
