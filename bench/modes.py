"""Compare the compiled training with the eager one in one process: speed, equality of the numbers, start-up time.

    python -m bench.modes [--config digits] [--parts speed equality startup] [--optim.batch=32 ...]

Any option of `smartfast train` works; perf.compile and perf.cuda_graphs say what "compiled" means (perf.compile true
where neither is given), the eager side has both off. Updates bench/results/modes_<config>.md and .json after each part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.equality import equality_section, measure_equality
from bench.jobs import Job, job_config, open_job
from bench.phase_counts import phase_shares
from bench.report_table import machine, markdown_table, provenance
from bench.speed import Run, measure_speed, speed_section
from smartfast.errors import UserError

COMMAND = "python -m bench.modes"
RESULTS = Path(__file__).parent / "results"
PARTS = ("speed", "equality", "startup")
_CHILD = "--startup_child"
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def measure_startup(arguments: Sequence[str], *, warm_runs: int) -> dict[str, Any]:
    """Seconds from the start of a process to the first finished iteration of every phase.

    Args:
        arguments: --config and options.
        warm_runs: Processes after the cold one, which find its compiled code.
    """
    with tempfile.TemporaryDirectory() as cache:
        return {
            "eager_sec": [_start("eager", arguments, cache) for _ in range(warm_runs)],
            "cold_sec": [_start("compiled", arguments, cache)],
            "warm_sec": [_start("compiled", arguments, cache) for _ in range(warm_runs)],
        }


def _start(mode: str, arguments: Sequence[str], cache: str) -> float:
    command = [sys.executable, "-m", "bench.modes", _CHILD, mode, *arguments]
    start_sec = time.perf_counter()
    subprocess.run(command, env=os.environ | {_CACHE_VARIABLE: cache}, check=True, stdout=sys.stderr)
    sec = time.perf_counter() - start_sec
    print(f"startup, {mode}: {sec:.1f} s", file=sys.stderr, flush=True)
    return sec


def start_up(job: Job, mode: str) -> None:
    """Run iterations until every phase has run once; what a process of `measure_startup` does."""
    run = Run(job, compiled=mode == "compiled")
    missing = set(phase_shares(job))
    while missing:
        run.iterate(1)
        missing -= {name.removeprefix("count/") for name in run.training.timer.read()}


def startup_section(result: dict[str, Any]) -> str:
    """The part of the report."""
    rows = [
        [mode, f"{min(sec):.1f}", f"{max(sec):.1f}", len(sec)]
        for mode, sec in ((mode, result[f"{mode}_sec"]) for mode in ("eager", "cold", "warm"))
    ]
    about = (
        "Seconds from the start of a process until every phase has run once; cold and warm: compiled, with an empty "
        "cache of compiled code and with the cold run's."
    )
    return f"{about}\n\n" + markdown_table(["", "fastest", "slowest", "runs"], rows)


SECTIONS = {
    "speed": ("Speed", speed_section),
    "equality": ("The same numbers", equality_section),
    "startup": ("Start-up", startup_section),
}


def write(results: dict[str, dict[str, Any]], name: str, folder: Path) -> None:
    """modes_<name>.md and .json: every part with the command that measured it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"modes_{name}"
    lines = ",\n".join(f"{json.dumps(part)}: {json.dumps(result)}" for part, result in results.items())
    path.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n")
    text = [f"# `{name}`: compiled against eager"]
    for part, (title, section) in SECTIONS.items():
        if part in results:
            text += [f"## {title}", f"{results[part]['provenance']}", section(results[part])]
    path.with_suffix(".md").write_text("\n\n".join(text) + "\n")


def measure(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the chosen parts and update the report after each."""
    job = open_job(job_config(options.config, overrides), device=options.device, stand_ins=True)
    name = Path(options.config).stem
    path = options.output / f"modes_{name}.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    measures = {
        "speed": lambda: measure_speed(job, blocks=options.blocks),
        "equality": lambda: measure_equality(job, iterations=options.iterations),
        "startup": lambda: measure_startup(_common(options, overrides), warm_runs=options.warm_runs),
    }
    for part in options.parts:
        command = " ".join([COMMAND, *_common(options, overrides), "--parts", part])
        stand_ins = f"; with {' and '.join(job.stand_ins)}" if job.stand_ins else ""
        about = f"{provenance(command)}, {machine(job.device)}{stand_ins}"
        results[part] = {"provenance": about, **measures[part]()}
        write(results, name, options.output)
        print(SECTIONS[part][1](results[part]), flush=True)


def _common(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    return ["--config", options.config, "--device", str(options.device), *overrides]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="digits", help="a preset or a YAML file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default all")
    parser.add_argument("--blocks", type=int, default=12, help="speed: pairs of blocks of iterations")
    parser.add_argument("--iterations", type=int, default=200, help="equality: length of the runs")
    parser.add_argument("--warm_runs", type=int, default=3, help="startup: processes with a filled cache")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(default_device), help="where to train")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument(_CHILD, choices=["eager", "compiled"], help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(arguments)
    try:
        if options.startup_child:
            job = open_job(job_config(options.config, overrides), device=options.device, stand_ins=True)
            start_up(job, options.startup_child)
        else:
            measure(options, overrides)
    except UserError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
