"""The best checkpoint of a run by one of its metrics: `best/<kimg>`, which is none of those in `checkpoints`.

Pruning and resuming know nothing of it. `RUN@best` names it wherever a checkpoint is named.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from smartfast.core.files import flush
from smartfast.errors import UserError

FOLDER = "best"
SUFFIX = "@best"
_RECORD = "best.json"
_PARTIAL = ".partial"


class Best(NamedTuple):
    """The folder of the best checkpoint, the name and value of its metric, and thousands of images seen."""

    path: Path
    metric: str
    value: float
    kimg: float


def best_of(run_dir: Path) -> Best | None:
    """The best checkpoint that a run has kept, None where it has none."""
    found = [_read(folder) for folder in (run_dir / FOLDER).glob("*.[0-9][0-9][0-9]")]
    # Two, where a process died between keeping one and deleting the one before.
    kept = [(one.path.joinpath(_RECORD).stat().st_mtime_ns, one) for one in found if one is not None]
    return max(kept)[1] if kept else None


def _read(folder: Path) -> Best | None:
    try:
        record = json.loads((folder / _RECORD).read_text())
        return Best(folder, str(record["metric"]), float(record["value"]), float(record["kimg"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_best(run_dir: Path, checkpoint: Path, *, metric: str, value: float, kimg: float) -> Path:
    """Make a checkpoint the best one of its run, in place of the one before.

    Args:
        run_dir: Run folder.
        checkpoint: Its folder; it stays.
        metric, value: What it is the best by.
        kimg: Thousands of images that it has seen.

    Returns:
        Its folder among the best, complete from the moment it is there.

    Raises:
        OSError: It cannot be written; the best one is the one before.
    """
    parent = run_dir / FOLDER
    final, partial = parent / f"{kimg:010.3f}", parent / f"{kimg:010.3f}{_PARTIAL}"
    for rest in parent.glob(f"*{_PARTIAL}"):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        link_files(checkpoint, partial)
        record = {"metric": metric, "value": value, "kimg": kimg}
        (partial / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        for file in partial.iterdir():
            flush(file)
        if final.exists():  # of the same moment, by another metric
            shutil.rmtree(final)
        os.replace(partial, final)
        flush(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for other in parent.glob("*.[0-9][0-9][0-9]"):
        if other != final:
            os.replace(other, parent / f"{other.name}{_PARTIAL}")
            shutil.rmtree(parent / f"{other.name}{_PARTIAL}", ignore_errors=True)
    return final


def link_files(source: Path, target: Path) -> None:
    """Make a folder with the files of another: as links that share their bytes, or copies where there are no such."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)


def named(path: Path) -> Path:
    """What a path means: the best checkpoint of RUN for `RUN@best`, and itself otherwise.

    Raises:
        UserError: The run has kept none.
    """
    if not path.name.endswith(SUFFIX) or os.path.lexists(path):
        return path
    stem = path.name.removesuffix(SUFFIX)
    run_dir = path.with_name(stem) if stem else path.parent
    best = best_of(run_dir)
    if best is None:
        raise UserError(f"{run_dir}: no best checkpoint is kept here, expected one; run.keep_best names its metric")
    return best.path
