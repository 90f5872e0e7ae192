"""The startup suite: seconds from the start of a process until training has run every phase once.

`cache` says what compiled code the process found: `empty` none, `filled` what the one before it left; eager training
compiles nothing. Every process is a child, which runs this module with caches of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from bench.jobs import EAGER, Job, Loop, job_config
from bench.options import Options
from bench.paper_jobs import PRESETS, open_paper_job
from bench.results import Run
from bench.suite_phases import settings
from bench.timing import Failure, Timing, summary

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
REPEATS = 3


def run(options: Options, results: Run) -> None:
    """Start eagerly, with an empty cache and with a filled one; on a CPU the digits only."""
    on_gpu = options.device.type == "cuda"
    fast = "cuda_graph" if on_gpu else "compiled"
    for name in tqdm(options.configs or (PRESETS if on_gpu else PRESETS[:1]), desc="startup"):
        overrides = settings(name, options)
        config = job_config(name, overrides)
        about = {"config": name, "resolution": config.data.resolution, "batch": config.optim.batch}
        about |= {"batch_gpu": config.optim.batch_gpu, "dtype": config.perf.precision}
        with tempfile.TemporaryDirectory() as cache:
            for provider, state, repeats in (("eager", None, REPEATS), (fast, "empty", 1), (fast, "filled", REPEATS)):
                row = {**about, "provider": provider, "cache": state}
                if not options.time_left_sec() or (options.quick and provider == fast):
                    results.skip(f"{name}, {provider}{f', {state} cache' if state else ''}")
                    continue
                arguments = [provider, "--config", name, "--device", str(options.device), *overrides]
                outcome = start(arguments, cache, 1 if options.quick else repeats)
                results.add(row | outcome.row())


def start(arguments: Sequence[str], cache: str, repeats: int) -> Timing | Failure:
    """Start processes one after the other.

    Args:
        arguments: Of this module's command line.
        cache: Folder of compiled code.
        repeats: How many.
    """
    samples_sec = []
    environment = os.environ | dict.fromkeys(CACHE_VARIABLES, cache)
    for _ in range(repeats):
        start_sec = time.time()
        command = [sys.executable, "-m", "bench.suite_startup", *arguments]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if child.returncode:
            return Failure((child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1])
        samples_sec.append(float(child.stdout.split()[-1]) - start_sec)
    return summary(samples_sec)


def run_every_phase(job: Job, perf: dict[str, Any]) -> None:
    """Iterate until every phase has run, and wait for the device.

    Raises:
        UserWarning: A phase could not be compiled.
    """
    missing = set(job.phase_shares())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"perf\.(compile|cuda_graphs)")
        loop = Loop(job, **perf)
        while missing:
            loop.iterate(1)
            missing -= {name.removeprefix("count/") for name in loop.training.timer.read()}
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Of a child: its last line is the time at which every phase had run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("provider")
    parser.add_argument("--config")
    parser.add_argument("--device", type=torch.device)
    options, overrides = parser.parse_known_args(arguments)
    job = open_paper_job(job_config(options.config, overrides), device=options.device)
    run_every_phase(job, EAGER if options.provider == "eager" else job.fast_perf())
    print(time.time())


if __name__ == "__main__":
    main()
