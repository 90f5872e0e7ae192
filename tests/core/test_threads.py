"""Threads that wait sleep soon; said to OpenMP before anything imports torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "smartfast" / "train.py"
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LOOK = """
import os, runpy, sys
import smartfast.cli as cli
def look(arguments):
    print("torch" in sys.modules, *(os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")))
    return 0
cli.COMMANDS = {name: look for name in cli.COMMANDS}
"""
ENTRIES = {
    "smartfast train": LOOK + "cli.main(['train'])",
    "smartfast train-scorer": LOOK + "cli.main(['train-scorer'])",
    "smartfast generate": LOOK + "cli.main(['generate'])",
    "train.py": LOOK + f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')",
}


def seen(entry: str, **given: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | given
    output = subprocess.run([sys.executable, "-c", ENTRIES[entry]], env=environment, capture_output=True, text=True)
    return output.stdout.split()


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_sets_it_before_torch(entry: str) -> None:
    imported, policy, spins = seen(entry)
    assert (imported, policy) == ("False", "passive") and 0 < int(spins) <= 10_000


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_chose_stays(given: dict[str, str]) -> None:
    assert seen("smartfast train", **given) == ["False", *(given.get(name, "None") for name in VARIABLES)]
