"""The run folder of a cell: what the study notes in it (cell.json), and how far its training is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from smartfast.core.files import write_atomically
from smartfast.core.run_lock import is_held
from smartfast.core.run_log import read_rows

RECORD, LOG = "cell.json", "train.log"
State = Literal["complete", "failed", "running", "interrupted", "waiting"]

_NOT_COMPARED = ("--run.dir=", "--perf.cpu_threads=")  # a folder may move, and threads are the machine's
_LONGEST_ERROR = 300
_TRAINED = {"tick": "sec_per_tick", "stopped": "since_tick_sec"}  # rows of metrics.jsonl that are of training


@dataclass(frozen=True)
class Record:
    """What the study did in a run folder.

    Attributes:
        status: complete, failed or interrupted; the last is also what it says while the training goes on.
        options: Those of `smartfast train` that the cell is.
        seconds: Of training in its budget, None = it ends by images.
        command: What was started, as one types it.
        wall_sec: Of all processes of the cell together.
        error: The last line of a training that failed.
        commit, machine, started: Where and when the last process began; the machine by its name, a comma and the rest.
    """

    status: Literal["complete", "failed", "interrupted"]
    arm: str
    seed: int
    options: tuple[str, ...]
    command: str
    seconds: float | None = None
    wall_sec: float = 0.0
    error: str = ""
    commit: str = ""
    machine: str = ""
    started: str = ""

    @property
    def hardware(self) -> str:
        """The machine but for its name, for what others read."""
        return self.machine.partition(", ")[2]

    def is_of(self, options: Sequence[str], seconds: float | None) -> bool:
        """Whether it was made under these options, but for the folder and the threads, and with this budget."""
        return _compared(self.options) == _compared(options) and self.seconds == seconds


def write_record(run_dir: Path, record: Record) -> None:
    """Write cell.json."""
    write_atomically(run_dir / RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())


def read_record(run_dir: Path) -> Record | None:
    """What cell.json says, None where it is missing or another program's."""
    try:
        values = json.loads((run_dir / RECORD).read_text())
        values["options"] = tuple(values["options"])
        return Record(**{field.name: values[field.name] for field in fields(Record) if field.name in values})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def state_of(run_dir: Path, options: Sequence[str], seconds: float | None) -> State:
    """What there is of a cell with these options and this budget, from its folder alone."""
    record = read_record(run_dir)
    if is_held(run_dir):
        return "running"
    if record is not None and record.is_of(options, seconds):
        return record.status
    return "interrupted" if (run_dir / "metrics.jsonl").exists() else "waiting"


def progress(run_dir: Path) -> tuple[float, float]:
    """Thousands of images of the farthest row of the log, and seconds of training until there."""
    rows = read_rows(run_dir / "metrics.jsonl")
    return max((row["kimg"] for row in rows), default=0.0), trained_sec(rows)


def fault_of(run_dir: Path, kimg: float | None) -> str:
    """Why a training that has ended says nothing of its budget, of images where it has `kimg`; empty where it does."""
    rows = read_rows(run_dir / "metrics.jsonl")
    trained = [row["kimg"] for row in rows if row["kind"] in _TRAINED]
    evaluated = [row["kimg"] for row in rows if row["kind"] == "metrics"]
    end_kimg = max(trained, default=0.0)
    if kimg is not None and any(kimg <= tick < end_kimg for tick in trained):
        return f"trained for {end_kimg:g} kimg, expected the budget's {kimg:g}: delete the folder to train it anew"
    if max(evaluated, default=-1.0) < end_kimg:
        return f"no evaluation at its end, {end_kimg:g} kimg, only at {evaluated}"
    return ""


def trained_sec(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of training, also of ticks that a stop cut off; evaluations, snapshots and compiling are left out."""
    return sum(row.get(_TRAINED.get(row["kind"], "")) or 0.0 for row in rows)


def reached_kimg(run_dir: Path) -> float | None:
    """Thousands of images of the newest checkpoint, None without one."""
    kimg = []
    for index in (run_dir / "checkpoints").glob("*/checkpoint.json"):
        try:
            kimg.append(json.loads(index.read_text())["images"] / 1000)
        except (OSError, ValueError, KeyError, TypeError):  # pruned in this moment, or damaged
            continue
    return max(kimg, default=None)


def last_line(run_dir: Path) -> str:
    """The last line that the training said, for a record of its failure."""
    try:
        lines = (run_dir / LOG).read_text(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_LONGEST_ERROR] if said else ""


def _compared(options: Sequence[str]) -> list[str]:
    return sorted(option for option in options if not option.startswith(_NOT_COMPARED))
