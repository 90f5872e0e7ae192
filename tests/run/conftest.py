"""Runs of a fraction of a second: 8x8 digits, networks of eight channels, no scorer."""

from collections.abc import Callable
from pathlib import Path

import pytest

SETTINGS = {
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
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.kimg": 0.064,
    "run.tick_kimg": 0.016,
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
}


@pytest.fixture(scope="session")
def tiny_options() -> Callable[..., list[str]]:
    """The command line of such a run in a folder, four ticks of two iterations: `tiny_options(folder, run__kimg=1)`."""

    def options(run_dir: Path, **changes: object) -> list[str]:
        settings = SETTINGS | {"run.dir": run_dir}
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        return [f"--{name}={value}" for name, value in settings.items()]

    return options
