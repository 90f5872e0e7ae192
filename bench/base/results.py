"""Results on disk: one JSON file per run of a suite, rewritten after every row; bench/results/README.md: the schema."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from bench.base.limits import Limits
from bench.base.machine import commit, describe_device, versions
from smartfast.core.files import write_atomically
from smartfast.errors import UserError

SCHEMA = 1
RESULTS = Path(__file__).parents[1] / "results"

Row = dict[str, Any]


class Run:
    """A suite's run, whose file is rewritten with every row, so that an interrupted run keeps what it has.

        with Run("ops", command, device=device, limits=limits) as run:
            run.add({"op": "bias_act", "provider": "ours", **timing.row()})

    Args:
        suite: Its name.
        command: What reproduces the run.
        device: Where it measures.
        limits: The machine's ceilings, measured in the same process; None only where nothing is measured.
        quick: Whether sizes and repeats are those of a trial.
        folder: Where the file goes.

    Attributes:
        path: Of the file. limits: As given. rows: Those added so far.
    """

    def __init__(
        self,
        suite: str,
        command: str,
        *,
        device: torch.device,
        limits: Limits | None = None,
        quick: bool = False,
        folder: Path = RESULTS,
    ) -> None:
        self.limits = limits
        self.rows: list[Row] = []
        self._skipped: list[str] = []
        self._start_sec = time.monotonic()
        start = datetime.now(UTC)
        machine = describe_device(device)
        self._header = {
            "schema": SCHEMA,
            "suite": suite,
            "command": command,
            "quick": quick,
            "started": start.isoformat(timespec="seconds"),
            "commit": commit(),
            "device": machine,
            "versions": versions(),
            "limits": limits.to_json() if limits else None,
        }
        self.path = folder / f"{start:%Y%m%dT%H%M%S}-{slug(machine['name'])}-{suite}.json"

    def __enter__(self) -> Self:
        self._write(stopped="not finished")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(stopped=None if error is None else f"{type(error).__name__}: {error}")

    def add(self, row: Mapping[str, Any]) -> int:
        """Add a row and write the file.

        Args:
            row: Strings, numbers, booleans and None by key, flat. What was measured and where it stands, and
                median_sec, p20_sec, p80_sec, or error (no time), or floor_sec (a prediction).

        Returns:
            The row's number, for `extend`.

        Raises:
            ValueError: It has none of the three, or a value that JSON has not.
        """
        _check_row(row)
        self.rows.append(dict(row))
        self._write(stopped="not finished")
        return len(self.rows) - 1

    def extend(self, number: int, more: Mapping[str, Any]) -> None:
        """Add keys to a row and write the file; raises as `add`."""
        row = {**self.rows[number], **more}
        _check_row(row)
        self.rows[number] = row
        self._write(stopped="not finished")

    @contextmanager
    def attempt(self, about: Mapping[str, Any]) -> Iterator[None]:
        """What raises inside becomes a row with the error, and the suite goes on.

        Args:
            about: What was to be measured, keys of the row.

        Raises:
            UserError: As inside. Exception: As inside, where it left a CUDA device unusable.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self.add({**about, "error": f"{type(error).__name__}: {error}"})
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()

    def skip(self, what: str) -> None:
        """Note what was left out or changed: by the time budget, by --quick, where memory did not suffice."""
        self._skipped.append(what)
        self._write(stopped="not finished")

    def _write(self, stopped: str | None) -> None:
        about = {"duration_sec": round(time.monotonic() - self._start_sec, 1), "stopped": stopped}
        header = json.dumps({**self._header, **about, "skipped": self._skipped}, indent=1)
        rows = ",\n".join(map(json.dumps, self.rows))
        write_atomically(self.path, f'{header[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'.encode())


def _check_row(row: Mapping[str, Any]) -> None:
    if not {"median_sec", "error", "floor_sec"} & row.keys():
        raise ValueError(f"a row needs median_sec, error or floor_sec, got {sorted(row)}")
    for key, value in row.items():
        is_flat = isinstance(value, str | int | float | bool | None)
        if not is_flat or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{key} is {value!r}, expected a string, a finite number, a boolean or None")


@dataclass(frozen=True)
class Result:
    """A file's content; keys as in bench/results/README.md."""

    path: Path
    suite: str
    command: str
    quick: bool
    started: str
    commit: str
    device: dict[str, Any]
    versions: dict[str, str]
    limits: Limits | None
    duration_sec: float
    stopped: str | None
    skipped: list[str]
    rows: list[Row]


def load(path: str | Path) -> Result:
    """Read a result's file.

    Raises:
        UserError: It is not there, or no result of this schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a result of `python -m bench`: {error}") from error
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise UserError(f"{path}: expected a result of `python -m bench` with schema {SCHEMA}")
    limits = content.pop("limits")
    return Result(path=path, limits=Limits(**limits) if limits else None, **content)


def load_all(folder: Path = RESULTS) -> list[Result]:
    """All results of a folder, oldest first."""
    return [load(path) for path in sorted(folder.glob("[0-9]*T[0-9]*-*.json"))]


def slug(name: str) -> str:
    """A device's name as a part of file names."""
    words = "".join(character if character.isalnum() else " " for character in name.lower()).split()
    return "-".join(words) or "unnamed"


def write_tables(path: Path, text: str, head: Mapping[str, Any], **tables: Iterable[Mapping[str, Any]]) -> None:
    """A program's result: Markdown for people, JSON with one row a line for comparing.

    Args:
        path: Of both files, without suffix.
        text: The Markdown.
        head: What the JSON begins with.
        tables: Rows by the key that they get in it.
    """
    write_atomically(path.with_suffix(".md"), text.encode())
    parts = [json.dumps(head)[1:-1]]
    parts += ['"{}": [\n{}\n]'.format(key, ",\n".join(map(json.dumps, rows))) for key, rows in tables.items()]
    write_atomically(path.with_suffix(".json"), f"{{{', '.join(parts)}}}\n".encode())
