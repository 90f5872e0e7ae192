"""The ways to compute a run's calls are timed on this machine before it starts, and the fastest are taken.

A child process measures one call after the other (`smartfast.kernels.tune`) while a budget of time lasts; what it did
not come to keeps its default, and is measured at the next start.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from smartfast.core.caches import default_cache_dir
from smartfast.core.files import write_atomically
from smartfast.errors import UserError
from smartfast.kernels.calls import Call
from smartfast.kernels.decisions import Decisions, Timed, decide
from smartfast.kernels.tune import Job, size_of, write_jobs
from smartfast.run.child import answers
from smartfast.run.verdicts import TimesFile, VerdictFile, is_times, machine
from smartfast.run.verification import LIMIT_SEC, Say

CHILD = (sys.executable, "-m", "smartfast.kernels.tune")
BUDGET_SEC = 30.0
"""Of one start of a run, after which no further call is measured."""
GPU = ("device", "capability")
"""What of a machine decides whether times of another are true for it."""

Times = dict[str, dict[str, Any]]
"""By `Mode.key`: what was found of a call, see `smartfast.run.verdicts.is_times`."""


class Mode(NamedTuple):
    """How a run computes: whether phases are compiled, are captured in CUDA graphs, and may use tf32."""

    compiled: bool
    captured: bool
    tf32: bool

    def key(self, call: Call) -> str:
        """What a time is true for."""
        words = [word for word, is_so in zip(self._fields, self, strict=True) if is_so]
        return f"{' and '.join(words) or 'eager'}: {call.content}"


def tuned(
    calls: Sequence[Call],
    device: torch.device,
    mode: Mode,
    *,
    say: Say,
    folder: Path | None = None,
    budget_sec: float = BUDGET_SEC,
    limit_sec: float = LIMIT_SEC,
    child: Sequence[str] = CHILD,
) -> Decisions:
    """Measure the calls that no earlier run has measured here, and decide for all of them.

    Args:
        calls: Of the ops, without those of ops that are switched off.
        device: Where they run.
        mode: How.
        say: Receives what a user has to know, a line at a time.
        folder: Of verdicts and times; None = in the user's cache.
        budget_sec: After which nothing more is measured.
        limit_sec: After which a call counts as hanging.
        child: Command that measures, to which its arguments are added.
    """
    folder, here = folder or default_cache_dir() / "kernels", machine(device)
    kept, kept_verdicts = TimesFile(folder, here), VerdictFile(folder, here)
    times, complaint = kept.read()
    verdicts, _ = kept_verdicts.read()  # a file that is not believed was told of by the verification
    if complaint is not None:
        say(complaint)
    calls = sorted(calls, key=size_of, reverse=True)
    jobs = [job for call in calls if (job := _job(call, mode, times, verdicts)) is not None]
    if jobs:
        found, new_verdicts = _measured(jobs, device, mode, budget_sec, limit_sec, child, say)
        times, verdicts = found | times, verdicts | new_verdicts
        for file, content in ((kept, times), (kept_verdicts, verdicts)):
            if found and (complaint := file.write(content)):
                say(complaint)
    return _decided(calls, device, mode, times, verdicts)


def _decided(
    calls: Sequence[Call], device: torch.device, mode: Mode, times: Times, verdicts: Mapping[str, str | None]
) -> Decisions:
    """From the times of ways that were found right on this very machine; others may come from elsewhere."""
    timed = []
    for call in calls:
        entry = times.get(mode.key(call), {"seconds": {}, "launches": {}})
        right = {way: sec for way, sec in entry["seconds"].items() if _is_right(call, way, verdicts)}
        timed.append(Timed(call, right, entry["launches"]))
    return decide(timed, device)


def _is_right(call: Call, way: str, verdicts: Mapping[str, str | None]) -> bool:
    return not way.startswith("triton") or verdicts.get(_verdict_key(call, way), "unknown") is None


def _verdict_key(call: Call, way: str) -> str:
    return call.content if way == "triton" else f"{call.content} as {way}"


def _job(call: Call, mode: Mode, times: Times, verdicts: Mapping[str, str | None]) -> Job | None:
    """What is still to be done for a call, None if nothing: to measure it, or to check the best of a merged table."""
    entry = times.get(mode.key(call))
    if entry is None:
        right = {"triton"} if _is_right(call, "triton", verdicts) else set()
        return Job(call, *mode, right=frozenset(right))
    ours = {way: sec for way, sec in entry["seconds"].items() if way.startswith("triton")}
    best = min(ours, key=ours.__getitem__, default=None)
    if best is None or _verdict_key(call, best) in verdicts:
        return None
    return Job(call, *mode, only=best)


def _measured(
    jobs: list[Job],
    device: torch.device,
    mode: Mode,
    budget_sec: float,
    limit_sec: float,
    child: Sequence[str],
    say: Say,
) -> tuple[Times, dict[str, str | None]]:
    """Times of calls, and verdicts of their ways. What a lost process was doing has no times and is not tried again."""
    times: Times = {}
    verdicts: dict[str, str | None] = {}
    say(f"kernels: tuning {len(jobs)} calls of {len({job.call.op for job in jobs})} ops, for at most {budget_sec:g} s")
    end_sec = time.monotonic() + budget_sec
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(jobs), desc="tuning", disable=None) as progress:
        file = Path(folder) / "jobs"
        while jobs and (left_sec := end_sec - time.monotonic()) > 0:
            write_jobs(jobs, file)
            before = len(times)
            for index, answer in answers([*child, str(file), str(device), f"{left_sec}"], limit_sec):
                call = jobs[index].call
                if isinstance(answer, str):
                    say(f"kernels: {call.op} keeps its default for a call, for its tuning failed: {answer}")
                    times[mode.key(call)] = {"seconds": {}, "launches": {}}
                    verdicts |= {_verdict_key(call, way): answer for way in [jobs[index].only] if way is not None}
                else:
                    times[mode.key(call)] = {name: answer[name] for name in ("seconds", "launches")}
                    verdicts |= {_verdict_key(call, way): text for way, text in answer["problems"].items()}
                progress.update()
            if len(times) == before:
                break
            jobs = [job for job in jobs if mode.key(job.call) not in times]
    say(f"kernels: tuned {len(times)} calls" + (f"; {len(jobs)} are left for the next start" if jobs else ""))
    return times, verdicts


def export_times(file: Path, device: torch.device, folder: Path | None = None) -> str:
    """Write the times of this machine, for others with the same GPU; returns what was written, in a line.

    Raises:
        UserError: There are none, or the file cannot be written.
    """
    here = machine(device)
    times, complaint = TimesFile(folder or default_cache_dir() / "kernels", here).read()
    if not times:
        raise UserError(f"doctor --export: {complaint or 'found no times'}, expected those of an earlier --tune")
    content = {name: here[name] for name in GPU} | {"times": times}
    try:
        write_atomically(file, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise UserError(f"doctor --export {file}: expected a file that can be written ({error.strerror})") from error
    return f"{file}: times of {len(times)} calls on {here['device']}"


def import_times(file: Path, device: torch.device, folder: Path | None = None) -> str:
    """Add the times of another machine with the same GPU to this one's, which count before them.

    Returns:
        What was added, in a line.

    Raises:
        UserError: The file is no such table, or one of another GPU, or the cache cannot be written.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"doctor --import {file}: {error}, expected a file of --export") from error
    times = content.get("times") if isinstance(content, dict) else None
    if not isinstance(times, dict) or not all(is_times(entry) for entry in times.values()):
        raise UserError(f"doctor --import {file}: found no table of times, expected a file of --export")
    here = machine(device)
    gpu, expected = ([str(source.get(name)) for name in GPU] for source in (content, here))
    if gpu != expected:
        raise UserError(f"doctor --import {file}: found times of {' '.join(gpu)}, expected {' '.join(expected)}")
    kept = TimesFile(folder or default_cache_dir() / "kernels", here)
    own, complaint = kept.read()
    complaint = kept.write(times | own) or complaint
    if complaint:
        raise UserError(f"doctor --import: {complaint}")
    return f"{kept.path}: {len(times.keys() - own.keys())} of {len(times)} calls were new"


def lines_of(decisions: Decisions) -> list[str]:
    """What was decided, in short."""
    counts: dict[str, int] = {}
    for route in decisions.routes.values():
        counts[route.name] = counts.get(route.name, 0) + 1
    routes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    lines = [f"kernels: routes of modulated convolutions by measurement: {routes}"] if counts else []
    if decisions.forms:
        lines.append(f"kernels: {len(decisions.forms)} launches take another form than the default")
    return [*lines, *(f"kernels: {op} runs as plain PyTorch, {reason}" for op, reason in decisions.aten.items())]
