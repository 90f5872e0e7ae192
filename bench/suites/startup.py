"""The startup suite: seconds from the start of a process until training has run every phase once.

`cache` says what compiled code the process found: `empty` none, `filled` what the one before it left. Eager training
takes from it the Triton kernels, on a GPU. CUDA graphs are captured later, after some runs of a phase. Every process is
a child, which runs this module with caches of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from bench.base.jobs import EAGER, PRESETS, Job, Loop, job_config, settings
from bench.base.options import Options
from bench.base.paper_jobs import open_paper_job
from bench.base.results import Run
from bench.base.timing import Failure, Timing, summary

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
STARTS = (("compiled", "empty", 1), ("compiled", "filled", 3), ("eager", "filled", 3))
"""Provider, cache and number of processes."""


def run(options: Options, results: Run) -> None:
    """Start with an empty cache, with a filled one, and eagerly; on a CPU the digits only."""
    for name in tqdm(options.configs or PRESETS[options.device.type], desc="startup"):
        overrides = settings(name, options)
        config = job_config(name, overrides)
        about = {"config": name, "resolution": config.data.resolution, "batch": config.optim.batch}
        about |= {"batch_gpu": config.optim.batch_gpu, "dtype": config.perf.precision}
        with tempfile.TemporaryDirectory() as cache:
            for provider, state, repeats in STARTS:
                row = {**about, "provider": provider, "cache": state}
                if not options.time_left_sec() or (options.quick and provider == "compiled"):
                    results.skip(f"{name}, {provider}, {state} cache")
                    continue
                arguments = [provider, "--config", name, "--device", str(options.device), *overrides]
                outcome = start(arguments, cache, 1 if options.quick else repeats, options.time_left_sec)
                results.add(row | outcome.row())


def start(arguments: Sequence[str], cache: str, repeats: int, time_left_sec: Callable[[], float]) -> Timing | Failure:
    """Start processes one after the other.

    Args:
        arguments: Of this module's command line.
        cache: Folder of compiled code.
        repeats: How many, as long as there is time.
        time_left_sec: After which a process is stopped.
    """
    samples_sec: list[float] = []
    environment = os.environ | dict.fromkeys(CACHE_VARIABLES, cache)
    for _ in range(repeats):
        start_sec, left_sec = time.time(), time_left_sec()
        command = [sys.executable, "-m", "bench.suites.startup", *arguments]
        try:
            child = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=left_sec
            )
        except subprocess.TimeoutExpired:
            return summary(samples_sec) if samples_sec else Failure(f"not ready after {left_sec:.0f} s")
        if child.returncode:
            return Failure((child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1])
        samples_sec.append(float(child.stdout.split()[-1]) - start_sec)
    return summary(samples_sec)


def run_every_phase(job: Job, perf: dict[str, Any]) -> None:
    """Two iterations: every lazy phase is due in the first one, those that they replace in the second.

    Raises:
        UserWarning: A phase could not be compiled.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"perf\.(compile|cuda_graphs)")
        Loop(job, **perf).iterate(2)
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
