"""Threads of a process: this machine's cores, shared by the processes on this machine."""

import os
from types import SimpleNamespace

import psutil
import pytest
import torch

from smartfast.config.parse import parse_config
from smartfast.core.parallel import default_workers
from smartfast.run import launch as launch_module
from smartfast.run.launch import launch

CORES = 8
WORLD = 16


@pytest.fixture
def chosen_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that were set, on a machine of CORES cores and in one of WORLD processes."""
    chosen: list[int] = []
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: CORES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    accelerator = SimpleNamespace(
        process_index=0, num_processes=WORLD, device=torch.device("cpu"), print=lambda text: None
    )
    monkeypatch.setattr(launch_module, "Accelerator", lambda **options: accelerator)
    for variable in ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    return chosen


@pytest.mark.parametrize("variable", ["LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"])
@pytest.mark.parametrize(("local", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (16, 1)])
def test_cores_are_divided_by_the_processes_of_this_machine(
    variable: str, local: int, threads: int, chosen_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun, and `accelerate launch` through it, set the first variable, Open MPI the second."""
    monkeypatch.setenv(variable, str(local))
    launch(parse_config(["--run.dry_run=true", f"--optim.batch={4 * WORLD}", "--smart.frequency=0"]))
    assert chosen_threads == [threads]


def test_a_set_number_of_threads_is_taken(chosen_threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    settings = ["--run.dry_run=true", f"--optim.batch={4 * WORLD}", "--smart.frequency=0", "--perf.cpu_threads=3"]
    launch(parse_config(settings))
    assert chosen_threads == [3]


@pytest.mark.parametrize(
    ("cores", "local", "expected"), [(8, None, 12), (8, 1, 12), (8, 2, 8), (8, 16, 4), (96, 8, 16), (96, 1, 32)]
)
def test_threads_that_read_images(
    cores: int, local: int | None, expected: int, chosen_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of the cores and four that wait for the disk, at most 32, for work that all processes do a part of."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert default_workers(shared=True) == expected
    assert default_workers() == min(32, cores + 4)
