"""Free memory is what a container leaves, caches of files counted as free."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from smartfast.core import main_memory
from smartfast.core.main_memory import main_memory_bytes

GIB = 2**30
STAT = "anon {anon}\nfile {file}\nshmem {shmem}\ninactive_file 5\n"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """64 GiB, of which 40 are free, in a control group that has no files yet."""
    memory = SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(main_memory.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(main_memory, "_CGROUP", tmp_path)


def write(folder: Path, limit: int | str, current: int, **stat: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(STAT.format(**stat))


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    assert main_memory_bytes() == (64 * GIB, 40 * GIB)
    write(tmp_path, "max", 10 * GIB, anon=10 * GIB, file=0, shmem=0)
    assert main_memory_bytes() == (64 * GIB, 40 * GIB)


def test_of_a_limit_what_is_in_use_is_taken_off_and_caches_are_not(tmp_path: Path) -> None:
    write(tmp_path, 16 * GIB, 15 * GIB, anon=6 * GIB, file=9 * GIB, shmem=2 * GIB)
    assert main_memory_bytes() == (16 * GIB, 8 * GIB)


def test_a_limit_above_what_the_machine_has_left_frees_nothing(tmp_path: Path) -> None:
    write(tmp_path, 100 * GIB, GIB, anon=GIB, file=0, shmem=0)
    assert main_memory_bytes() == (64 * GIB, 40 * GIB)
    write(tmp_path, GIB, 2 * GIB, anon=2 * GIB, file=0, shmem=0)
    assert main_memory_bytes() == (GIB, 0)
