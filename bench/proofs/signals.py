"""Signals at random moments of whole trainings: what was saved, how soon, and how the same command goes on from there.

    python -m bench.proofs.signals [--number 300] [--seed 0]

Each case starts a tiny training of digits in processes of its own, sends one signal in a phase drawn by lot, to the
launcher or to every process of the group, waits until nothing of it runs, and lets the same command finish. A quarter
of the cases compile, with an empty cache. One process under python, accelerate launch and torchrun, two under torchrun
(accelerate launch starts one process on a CPU). About 40 s a case on two cores. Writes bench/results/signals.md and
.json.
"""

import argparse
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.proofs import marked_training
from bench.report.table import markdown_table
from smartfast.core.caches import CACHE_VARIABLE
from smartfast.core.checkpoint import load_newest

COMMAND = "python -m bench.proofs.signals"
SCRIPT = Path(marked_training.__file__)
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
SAVED_SEC = 10.0
ENDED_SEC = 30.0
"""For the processes of a launcher that a signal kills: they miss it, save, and end."""
POLL_SEC = 0.005
PATIENCE_SEC = 600.0
COMPILE_SHARE = 0.25
_OWNER = "SMARTFAST_PROOF"
_DONE = re.compile(r"saved at ([\d.]+) kimg|nothing was trained yet|smartfast: interrupted|^report: ", re.MULTILINE)
ABOUT = f"""\
Saved: seconds from the signal until the training said that all is on the disk, or that there was nothing to save.
Lost: cases in which an iteration that had ended before the signal was not in the checkpoint. Status: 3 of `python`, 0
where the command was done already; accelerate and torchrun make 1 of it, or the signal's own. Equal: after the same
command has ended, every tensor of the state is that of a run that nobody disturbed, bit for bit. Left: processes that
ran {ENDED_SEC:g} s after the launcher had ended."""


class Way(NamedTuple):
    """A launcher and how many processes it starts."""

    launcher: str
    processes: int

    def command(self, options: Sequence[str]) -> list[str]:
        """The command line of a training."""
        python, count = sys.executable, str(self.processes)
        start = {
            "python": [python],
            "accelerate": [python, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", count],
            "torchrun": [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count],
        }
        return [*start[self.launcher], str(SCRIPT), *options]


WAYS = (Way("python", 1), Way("accelerate", 1), Way("torchrun", 1), Way("torchrun", 2))


class Moment(NamedTuple):
    """Where an undisturbed run was: its phase, the images that it had seen, and seconds since both became so."""

    phase: str
    images: int
    sec: float


@dataclass
class Outcome:
    """One case."""

    launcher: str
    processes: int
    is_compiled: bool
    signal: str
    target: str
    phase: str
    images: int
    status: int
    resumed_status: int
    saved_sec: float | None
    saved_images: int
    left: int
    is_equal: bool

    @property
    def is_saved(self) -> bool:
        """Whether all that was trained was on the disk in time."""
        return self.saved_sec is not None and self.saved_sec <= SAVED_SEC and self.saved_images >= self.images

    @property
    def is_right(self) -> bool:
        """Whether nothing at all is wrong with it."""
        statuses = (0, 3) if self.phase in ("end", "report") else (3,)
        has_status = self.launcher != "python" or self.status in statuses
        return has_status and self.is_saved and self.is_equal and not self.left and self.resumed_status == 0


def options_of(folder: Path, *, is_compiled: bool) -> list[str]:
    """A training of some seconds that evaluates, saves and draws a report."""
    settings = {
        "config": "digits",
        "data.resolution": 8,
        "data.labels": "false",
        "gan.z_dim": 8,
        "gan.w_dim": 8,
        "gan.mapping_layers": 1,
        "gan.d_mapping_layers": 1,
        "gan.channel_base": 64,
        "gan.channel_max": 8,
        "gan.mbstd_group": 4,
        "gan.mbstd_by_class": "false",
        "loss.r1_interval": 4,
        "optim.batch": 8,
        "smart.frequency": 0,
        "metrics.every_ticks": 2,
        "metrics.samples": 500,
        "run.dir": folder,
        "run.kimg": 0.16 if is_compiled else 0.96,
        "run.tick_kimg": 0.04 if is_compiled else 0.16,
        "run.snapshot_ticks": 2,
        "run.tracker": "none",
        "perf.compile": str(is_compiled).lower(),
        "perf.cpu_threads": 1,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


class Running:
    """A training that has been started, seen from outside."""

    def __init__(self, way: Way, options: Sequence[str], folder: Path, cache: Path, output: str = "output") -> None:
        self.owner = uuid.uuid4().hex
        self.marks, self.output = folder / "marks", folder / output
        self.marks.write_text("python 0".ljust(40))
        own = {_OWNER: self.owner, marked_training.MARKS: str(self.marks), "OMP_NUM_THREADS": "1"}
        own |= {CACHE_VARIABLE: str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "compiled"), "PYTHONUNBUFFERED": "1"}
        root = str(Path(__file__).parents[2])
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                way.command(options), stdout=file, stderr=file, env=os.environ | own, start_new_session=True
            )

    def where(self) -> tuple[str, int]:
        """Its phase and the images that it has seen."""
        phase, images = self.marks.read_text().split()
        return phase, int(images)

    def alive(self) -> list[psutil.Process]:
        """Its processes, launcher and children of children included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_OWNER) == self.owner and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def kill(self) -> None:
        """End what is left of it."""
        for process in self.alive():
            process.kill()
        self.process.wait()


def watched(way: Way, folder: Path, cache: Path, *, is_compiled: bool) -> tuple[list[Moment], dict[str, Tensor]]:
    """Moments of an undisturbed run, evenly spaced in time, and the state that it ends with."""
    running = Running(way, options_of(folder / "run", is_compiled=is_compiled), folder, cache)
    moments: list[Moment] = []
    place, since = running.where(), time.perf_counter()
    while running.process.poll() is None:
        now = time.perf_counter()
        if running.where() != place:
            place, since = running.where(), now
        moments.append(Moment(*place, now - since))
        time.sleep(POLL_SEC)
    if running.process.returncode != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{running.output.read_text()[-3000:]}")
    return moments, _state(folder / "run")


def _state(run_dir: Path) -> dict[str, Tensor]:
    newest = load_newest(run_dir)
    return newest.state if newest else {}


def wait_for(running: Running, moment: Moment) -> None:
    """Return at that moment of a run, or when the run is past it."""
    order = marked_training.PHASES.index
    while running.process.poll() is None:
        phase, images = running.where()
        if images > moment.images or (images == moment.images and order(phase) >= order(moment.phase)):
            break
        time.sleep(POLL_SEC)
    time.sleep(moment.sec)


def one_case(
    way: Way, name: str, target: str, moment: Moment, expected: Mapping[str, Tensor], folder: Path, caches: Path
) -> Outcome | None:
    """Disturb a run and let it go on; None where it had ended before the signal."""
    is_compiled = moment.phase == "compile"
    options = options_of(folder / "run", is_compiled=is_compiled)
    running = Running(way, options, folder, folder / "cache" if is_compiled else caches)
    try:
        wait_for(running, moment)
        phase, images = running.where()
        start_sec = time.perf_counter()
        if running.process.poll() is not None:
            return None
        number = getattr(signal, name)
        os.killpg(running.process.pid, number) if target == "group" else running.process.send_signal(number)
        saved_sec, left = _await_end(running, start_sec)
    finally:
        running.kill()
    status, newest = running.process.returncode, _saved_images(folder / "run")
    resumed = Running(way, options, folder, caches, "resumed")
    try:
        resumed_status = resumed.process.wait(PATIENCE_SEC)
    finally:
        resumed.kill()
    found = _state(folder / "run")
    is_equal = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    return Outcome(
        *way, is_compiled, name, target, phase, images, status, resumed_status, saved_sec, newest, left, is_equal
    )


def _saved_images(run_dir: Path) -> int:
    newest = load_newest(run_dir)
    return newest.info["images"] if newest else 0


def _await_end(running: Running, start_sec: float) -> tuple[float | None, int]:
    """Seconds until it said that it had saved, None where it said nothing, and processes that outlived the launcher."""
    saved_sec, ended_sec = None, None
    while time.perf_counter() - start_sec < PATIENCE_SEC:
        now = time.perf_counter()
        if saved_sec is None and _DONE.search(running.output.read_text(errors="replace")):
            saved_sec = now - start_sec
        if running.process.poll() is not None:
            ended_sec = ended_sec or now
            alive = len(running.alive())
            if not alive or now - ended_sec > ENDED_SEC:
                said = _DONE.search(running.output.read_text(errors="replace"))
                return (now - start_sec if saved_sec is None and said else saved_sec), alive
        time.sleep(0.02)
    return saved_sec, len(running.alive())


def cases(number: int, seed: int, moments: Mapping[tuple[Way, bool], Sequence[Moment]]) -> Iterator[tuple]:
    """What is sent, to whom, when: phases in turn, so that short ones have their share, the rest by lot."""
    draw = random.Random(seed)
    plain = [phase for phase in marked_training.PHASES if phase not in ("python", "compile")]
    turns = itertools.cycle(draw.sample(plain, len(plain)))
    for _ in range(number):
        way, is_compiled = draw.choice(WAYS), draw.random() < COMPILE_SHARE
        phase = "compile" if is_compiled else next(turns)
        of_phase = [moment for moment in moments[way, is_compiled] if moment.phase == phase]
        target = draw.choice(("launcher", "group"))
        yield way, draw.choice(SIGNALS), target, draw.choice(of_phase or moments[way, is_compiled])


def report(outcomes: Sequence[Outcome], asked: int) -> str:
    """The page."""
    header = ["", "signals", f"saved within {SAVED_SEC:g} s", "slowest, s", "lost", "equal", "resumed", "left", "wrong"]
    tables = []
    for title, key in (
        ("phase", lambda one: one.phase),
        ("launcher", lambda one: f"{one.launcher}, {one.processes}"),
        ("signal", lambda one: f"{one.signal} to the {one.target}"),
    ):
        counts = Counter(map(key, outcomes))
        names = sorted(counts, key=marked_training.PHASES.index) if title == "phase" else sorted(counts)
        lines = [_line(name, [one for one in outcomes if key(one) == name]) for name in names]
        tables.append(markdown_table([title, *header[1:]], [*lines, _line("all", outcomes)]))
    about = f"{len(outcomes)} signals; {asked - len(outcomes)} more came after the end of their run and do not count."
    title = "# Signals at random moments"
    top = f"{provenance(COMMAND)}; {machine(torch.device('cpu'))}"
    return "\n\n".join([title, top, about, ABOUT, *tables]) + "\n"


def _line(name: str, outcomes: Sequence[Outcome]) -> list[object]:
    times = [one.saved_sec for one in outcomes if one.saved_sec is not None]
    return [
        name,
        len(outcomes),
        sum(one.saved_sec is not None and one.saved_sec <= SAVED_SEC for one in outcomes),
        f"{max(times, default=float('nan')):.1f}",
        sum(one.saved_images < one.images for one in outcomes),
        sum(one.is_equal for one in outcomes),
        sum(one.resumed_status == 0 for one in outcomes),
        sum(one.left for one in outcomes),
        sum(not one.is_right for one in outcomes),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a case went wrong."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--number", type=int, default=300, help="signals")
    parser.add_argument("--seed", type=int, default=0, help="of the lots")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder, caches = Path(name), Path(name) / "caches"
        moments, states = {}, {}
        for way, is_compiled in itertools.product(WAYS, (False, True)):
            place = folder / f"{way.launcher}{way.processes}{'c' if is_compiled else ''}"
            place.mkdir()
            moments[way, is_compiled], states[way, is_compiled] = watched(way, place, caches, is_compiled=is_compiled)
        for count, (way, sent, target, moment) in enumerate(cases(options.number, options.seed, moments), 1):
            place = folder / f"case{count}"
            place.mkdir()
            expected = states[way, moment.phase == "compile"]
            outcome = one_case(way, sent, target, moment, expected, place, caches)
            if outcome is not None:
                outcomes.append(outcome)
                if not outcome.is_right:
                    for said in sorted(place.glob("[or]*")):
                        if said.is_file():
                            print(f"{said.name}:\n{said.read_text(errors='replace')[-3000:]}")
            print(f"{count} of {options.number}: {outcome}", flush=True)
            text, rows = report(outcomes, count), [asdict(one) for one in outcomes]
            write_tables(options.output / "signals", text, {"command": COMMAND, "versions": versions()}, rows=rows)
    print(text)
    return 0 if all(one.is_right for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
