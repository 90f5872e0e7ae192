"""`smartfast watch`: a page of one or many runs while they train, from the files of their folders alone."""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smartfast.config.ranges import Port, in_range
from smartfast.core.text import printable
from smartfast.errors import UserError
from smartfast.report.run_data import is_picture, is_run, run_data
from smartfast.report.webpage import RUNS_SCRIPTS, web_page
from smartfast.tools.serving import Answer, open_server, serve

_PATH = re.compile(r"/runs/(\d{1,6})(?:\.json|/([\w.]+))")


@dataclass(frozen=True)
class WatchOptions:
    """A page of the run folders that stand before the options, on this machine alone."""

    port: Port = 6010
    """Port of 127.0.0.1; 0 = any that is free."""


def watch(folders: Sequence[str], options: WatchOptions) -> None:
    """Serve the page until Ctrl-C. Nothing is written and no training is asked for anything.

    Args:
        folders: Run folders, or folders that hold some, such as `runs` or the cells of a study.
        options: See `WatchOptions`.

    Raises:
        UserError: There is no run, or the port is taken.
    """
    options = in_range(options)
    runs = find_runs(folders)
    names = ", ".join(printable(run.name) for run in runs[:3]) + (", ..." if len(runs) > 3 else "")
    serve(open_server(Watched(runs).answer, options.port), f"{len(runs)} runs ({names})" if runs[1:] else names)


def find_runs(folders: Sequence[str]) -> list[Path]:
    """The run folders among `folders` and, where one is none, directly inside it; each once.

    Raises:
        UserError: One is no run and holds none.
    """
    if not folders:
        raise UserError("watch: found no folder, expected one or several: smartfast watch runs/digits")
    found: list[Path] = []
    for folder in map(Path, folders):
        runs = [folder] if is_run(folder) else sorted(path for path in _inside(folder) if is_run(path))
        if not runs:
            raise UserError(f"{printable(str(folder))}: expected a run folder or a folder of some, found neither")
        found += runs
    return list({path.resolve(): path.resolve() for path in found})


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def shown_names(runs: Sequence[Path]) -> list[str]:
    """What the page calls each run: its folder's name, with as many folders before it as tell it from the others."""
    names = [run.name for run in runs]
    for depth in range(2, 32):
        names = [
            os.sep.join(run.parts[-depth:]) if names.count(name) > 1 else name
            for run, name in zip(runs, names, strict=True)
        ]
    return names


class Watched:
    """What the server answers of some runs.

    Args:
        runs: Run folders, without links in their paths.
    """

    def __init__(self, runs: Sequence[Path]) -> None:
        self._runs = runs
        self._page = web_page("SmartFast", RUNS_SCRIPTS, {"live": True, "runs": shown_names(runs)})
        self._kept: dict[int, tuple[object, Answer]] = {}
        self._lock = threading.Lock()

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """See `Route`: the page, `/runs/<number>.json`, or a picture of a run, `/runs/<number>/<file>`."""
        if path == "/":
            return Answer(self._page, "text/html; charset=utf-8")
        match = _PATH.fullmatch(path)
        if match is None or int(match[1]) >= len(self._runs):
            return None
        number = int(match[1])
        if match[2] is None:
            return self._data(number)
        return _picture(self._runs[number], match[2])

    def _data(self, number: int) -> Answer:
        """What the page shows of a run; read anew only where a file has changed since."""
        with self._lock:
            state = _state(self._runs[number])
            if number not in self._kept or self._kept[number][0] != state:
                data = run_data(self._runs[number], _address_of(number))
                self._kept[number] = state, Answer.of_json(data)
            return self._kept[number][1]


def _address_of(number: int) -> Callable[[Path], dict[str, str]]:
    """Where the page finds a picture: another address once the file is another."""

    def show(path: Path) -> dict[str, str]:
        try:
            return {"src": f"runs/{number}/{path.name}?v={path.stat().st_mtime_ns}"}
        except OSError:
            return {"fault": f"{path.name} cannot be read."}

    return show


def _picture(run: Path, name: str) -> Answer | None:
    """A picture of a run folder; a link out of it is none."""
    path = run / name
    if not is_picture(name) or not path.is_file() or path.resolve().parent != run:
        return None
    return Answer(path.read_bytes(), "image/png")


def _state(run: Path) -> object:
    """What changes when the files that the page is made of do."""
    checkpoints = run / "checkpoints"
    files = [run / "metrics.jsonl", run / "config.yaml", checkpoints, *run.glob("*.png")]
    found = []
    for path in files:
        try:
            stat = path.stat()
            found.append((path.name, stat.st_mtime_ns, stat.st_size))
        except OSError:
            continue
    return sorted(found)
