"""metrics.jsonl: one JSON object per tick or evaluation, in the order in which they happened."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

from smartfast.core.files import set_aside, write_atomically

_MAX_KIMG = 1e15


class RunLog:
    """Appends rows to metrics.jsonl of a run folder, which is there from now on.

    A file with anything else in it is set aside as metrics.jsonl.broken; what can be read of it goes on.

    Args:
        run_dir: Run folder.
        kimg: Where training (re)starts; rows of a later point, written by a run that was interrupted after its
            last checkpoint, are dropped.
    """

    def __init__(self, run_dir: Path, *, kimg: float) -> None:
        self.path = run_dir / "metrics.jsonl"
        rows, fault = _read(self.path)
        if fault:
            aside = set_aside(self.path, ".broken")
            warnings.warn(f"{self.path} {fault}: set aside as {aside.name}; what can be read goes on", stacklevel=2)
        kept = [row for row in rows if row["kimg"] <= kimg]
        self._last_kimg = {row["kind"]: row["kimg"] for row in kept}
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def last_kimg(self, kind: str) -> float | None:
        """Where the last row of `kind` stood that the run (re)started with, None without one."""
        return self._last_kimg.get(kind)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; a number that is not finite becomes null, which JSON can hold."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(finite) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl, each with a kind and a kimg; lines that are none are left out."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Rows, and why the file is not a log; a last line that was cut off while being written does not count."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"cannot be read ({error.strerror})"
    rows = [_row(line) for line in lines]
    bad = [number for number, row in enumerate(rows[:-1], 1) if row is None]
    fault = f"has {len(bad)} lines that are no rows (line {bad[0]} is the first)" if bad else None
    return [row for row in rows if row is not None], fault


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        is_row = isinstance(row["kind"], str) and abs(row["kimg"]) < _MAX_KIMG  # nor nan
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return row if is_row else None
