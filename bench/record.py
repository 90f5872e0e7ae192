"""Time to quality: seconds from launch until the mean digits FD over seeds is at most 4.0, a row of RECORDS.md.

    python -m bench record [--seeds 20] [--against COMMIT] [options of train, --config digits where none is among them]

Every seed is a `smartfast train` of its own, and its clock runs from the start of the process, imports included, to the
moment in which metrics.jsonl has an evaluation. The point that counts is the first at which the mean over all seeds
reaches the target. With --against the seeds of both commits run in turns, so that an hour is the same for both. Files
of the metric and the data must be the same in both. Caches are filled by a short run of each before the first seed.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bench.base.machine import processor, versions
from smartfast.core.files import write_atomically
from smartfast.core.run_log import read_rows
from smartfast.errors import UserError
from smartfast.study.statistics import paired_difference

COMMAND = "python -m bench record"
ROOT = Path(__file__).parents[1]
TRAIN = (sys.executable, "-m", "smartfast", "train")
METRIC = "metric/fd_digits"
TARGET = 4.0
FEWEST_SEEDS = 20
LOOK_SEC = 0.05
SAME = ("smartfast/metrics", "smartfast/data")
"""What a record never owes a gain to."""
HEADER = """# Records

Seconds from launch until the mean FD of the digits over seeds is at most 4.0 (`python -m bench record`): `smartfast
train` on two CPU cores, imports and evaluations included, caches warm. p: that the mean is not below 4.0, and that the
commit in *against* is not slower, both by sign flips over the seeds. Lines: added to and removed from `smartfast/` and
`kernels/` since that commit.

| date | seconds | at kimg | mean FD | p | seeds | commit | against | lines | machine | options of train |
|---|---|---|---|---|---|---|---|---|---|---|
"""

Points = dict[float, tuple[float, float]]
"""Of a seed: by kimg, seconds since its launch and its FD."""


class Reached(NamedTuple):
    """Where the mean over seeds first meets the target."""

    kimg: float
    sec_by_seed: dict[int, float]
    fd_by_seed: dict[int, float]
    p_value: float

    @property
    def sec(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.sec_by_seed.values())


def run_seed(code: Path, seed: int, folder: Path, arguments: Sequence[str], train: Sequence[str] = TRAIN) -> Points:
    """Train one seed and stamp its evaluations.

    Args:
        code: Checkout whose code runs.
        seed: Of the run.
        folder: For the run folder.
        arguments: Further options of train.
        train: Command that trains.

    Raises:
        UserError: The training failed; the message has its last line.
    """
    run_dir = folder / f"seed{seed}"
    options = [f"--run.seed={seed}", f"--run.dir={run_dir}", "--run.tracker=none", *arguments]
    environment = os.environ | {"PYTHONPATH": str(code)}
    begin_sec, points = time.perf_counter(), Points()
    with (folder / f"seed{seed}.txt").open("w+") as said:
        process = subprocess.Popen([*train, *options], cwd=code, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            while True:
                is_over = process.poll() is not None
                sec = time.perf_counter() - begin_sec
                for row in read_rows(run_dir / "metrics.jsonl"):
                    if isinstance(row.get(METRIC), int | float) and row["kimg"] > 0:
                        points.setdefault(row["kimg"], (sec, row[METRIC]))
                if is_over:
                    break
                time.sleep(LOOK_SEC)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"record: seed {seed} in {code} ended with {process.returncode}: {last}")
    return points


def reached(points: Mapping[int, Points], target: float = TARGET) -> Reached | None:
    """The first evaluation that all seeds have and at which their mean FD is at most `target`, None without one."""
    shared = set.intersection(*(set(of_seed) for of_seed in points.values()))
    for kimg in sorted(shared):
        fds = {seed: of_seed[kimg][1] for seed, of_seed in points.items()}
        if statistics.mean(fds.values()) <= target:
            test = paired_difference(fds, dict.fromkeys(fds, target), alternative="less")
            assert test is not None
            return Reached(kimg, {seed: of_seed[kimg][0] for seed, of_seed in points.items()}, fds, test.p_value)
    return None


def measure(
    sides: Mapping[str, Path],
    seeds: Sequence[int],
    arguments: Sequence[str],
    folder: Path,
    train: Sequence[str] = TRAIN,
) -> dict[str, dict[int, Points]]:
    """The points of every seed of every side, in turns, the side that begins by turns too."""
    found: dict[str, dict[int, Points]] = {side: {} for side in sides}
    for side, code in sides.items():
        (folder / side / "warm").mkdir(parents=True)
        run_seed(code, 0, folder / side / "warm", [*arguments, "--run.kimg=0.5"], train)
    for place, seed in enumerate(tqdm(seeds, desc="seeds", disable=None)):
        for side in list(sides)[:: 1 if place % 2 == 0 else -1]:
            found[side][seed] = run_seed(sides[side], seed, folder / side, arguments, train)
    return found


def row_of(now: Reached, against: tuple[str, Reached] | None, commit: str, lines: str, arguments: Sequence[str]) -> str:
    """The row of RECORDS.md."""
    words = "-"
    if against is not None:
        name, before = against
        test = paired_difference(now.sec_by_seed, before.sec_by_seed, alternative="less")
        assert test is not None
        words = f"{name}: {before.sec:.1f} s at {before.kimg:g} kimg, p {test.p_value:.2g}"
    fds = list(now.fd_by_seed.values())
    cells = [
        datetime.now(UTC).strftime("%Y-%m-%d"),
        f"{now.sec:.1f}",
        f"{now.kimg:g}",
        f"{statistics.mean(fds):.3f}" + (f" (sd {statistics.stdev(fds):.2f})" if len(fds) > 1 else ""),
        f"{now.p_value:.2g}",
        str(len(fds)),
        commit,
        words,
        lines,
        f"{processor()}, {os.cpu_count()} CPUs",
        f"`{shlex.join(arguments)}`",
    ]
    return f"| {' | '.join(cells)} |\n"


def add_row(file: Path, row: str) -> None:
    """Append a row to the table, which begins with its header."""
    text = file.read_text() if file.is_file() else HEADER
    write_atomically(file, (text + row).encode())


def commit_of(root: Path) -> str:
    """The commit of a checkout.

    Raises:
        UserError: Files differ from it, so that no commit names what would run.
    """
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if changed:
        raise UserError(f"record: {changed.splitlines()[0].strip()} is not committed, expected a checkout of a commit")
    return _git(root, "rev-parse", "--short", "HEAD")


@contextmanager
def checkout(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """Another commit of the repository, in a folder of its own.

    Raises:
        UserError: There is no such commit, or its metric or data are others.
    """
    try:
        _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}")
    except UserError as error:
        raise UserError(f"record --against {commit}: expected a commit of {root}") from error
    changed = _git(root, "diff", "--name-only", commit, "HEAD", "--", *SAME).splitlines()
    if changed:
        raise UserError(f"record --against {commit}: {changed[0]} is another there, expected the same metric and data")
    place = folder / "against"
    _git(root, "worktree", "add", "--detach", str(place), commit)
    try:
        yield place
    finally:
        _git(root, "worktree", "remove", "--force", str(place))


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"record: git {words[0]}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return done.stdout.strip()


def _lines(root: Path, commit: str | None) -> str:
    if commit is None:
        return "-"
    table = _git(root, "diff", "--numstat", commit, "HEAD", "--", "smartfast", "kernels")
    numbers = [line.split("\t")[:2] for line in table.splitlines()]
    added, removed = (sum(int(pair[i]) for pair in numbers if pair[i] != "-") for i in (0, 1))
    return f"+{added} -{removed}"


def record(options: argparse.Namespace, arguments: Sequence[str], root: Path, train: Sequence[str] = TRAIN) -> int:
    """Measure, keep every point, and add the row; returns the exit code, 1 where the target was not reached."""
    commit = commit_of(root)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.against is None:
            found = measure({commit: root}, range(options.seeds), arguments, folder, train)
        else:
            with checkout(root, options.against, folder) as other:
                sides = {commit: root, options.against: other}
                found = measure(sides, range(options.seeds), arguments, folder, train)
    _keep(root, commit, arguments, found)
    ends = {side: reached(points) for side, points in found.items()}
    for side, end in ends.items():
        print(f"{side}: " + (f"{end.sec:.1f} s, at {end.kimg:g} kimg" if end else f"no mean of at most {TARGET:g}"))
    now, before = ends[commit], ends.get(options.against) if options.against else None
    if now is None or (options.against and before is None):
        return 1
    row = row_of(now, (options.against, before) if before else None, commit, _lines(root, options.against), arguments)
    print(row, end="")
    if options.seeds < FEWEST_SEEDS:
        print(f"no row: {options.seeds} seeds, expected at least {FEWEST_SEEDS}")
        return 0
    add_row(root / "RECORDS.md", row)
    return 0


def _keep(root: Path, commit: str, arguments: Sequence[str], found: Mapping[str, Any]) -> None:
    content = {"command": [COMMAND, *arguments], "versions": versions(), "points": found}
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    file = root / "bench" / "results" / f"record-{commit}-{stamp}.json"
    write_atomically(file, json.dumps(content, indent=1).encode())
    print(f"every point: {file}")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=FEWEST_SEEDS, help="number of seeds; fewer than 20 add no row")
    parser.add_argument("--against", metavar="COMMIT", help="a commit whose seeds run in turns with these")
    options, rest = parser.parse_known_args(arguments)
    if options.seeds < 1:
        raise UserError(f"record: --seeds is {options.seeds}, expected at least 1")
    has_base = any(word.partition("=")[0] == "--config" for word in rest)
    base = [] if has_base else ["--config=digits"]
    return record(options, [*base, "--metrics.every_ticks=1", "--run.tick_kimg=2", *rest], ROOT)
