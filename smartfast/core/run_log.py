"""metrics.jsonl: one JSON object per tick or evaluation, in the order in which they happened."""

import json
import math
from pathlib import Path
from typing import Any

from smartfast.core.files import write_atomically


class RunLog:
    """Appends rows to metrics.jsonl of a run folder.

    Args:
        run_dir: Run folder.
        kimg: Where training (re)starts; rows of a later point, written by a run that was interrupted after its
            last checkpoint, are dropped.
    """

    def __init__(self, run_dir: Path, *, kimg: float) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._last_kimg: dict[str, float] = {}
        if self.path.exists():
            kept = [row for row in read_rows(self.path) if row["kimg"] <= kimg]
            self._last_kimg = {row["kind"]: row["kimg"] for row in kept}
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_atomically(self.path, text.encode())

    def last_kimg(self, kind: str) -> float | None:
        """Where the last row of `kind` stood that the run (re)started with, None without one."""
        return self._last_kimg.get(kind)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; a number that is not finite becomes null, which JSON can hold."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(finite) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl; a last line that was cut off while being written is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
