"""Imports run downward; the contract is in pyproject.toml. Few files lie loose."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]


def test_the_contract_of_pyproject_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)  # for bench, which is not installed
    assert lint_imports(cache_dir=None, no_cache=True) == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_contract_sees_the_ops_and_every_family() -> None:
    modules = grimp.build_graph("smartfast", cache_dir=None).modules
    assert {"smartfast.kernels.conv2d.op", "smartfast.families.stylegan2.family", "smartfast.run.training"} <= modules


def test_at_most_five_files_lie_loose() -> None:
    assert len(list((ROOT / "smartfast").glob("*.py"))) <= 5


@pytest.mark.slow  # a process that imports everything a training needs
def test_a_training_starts_without_what_only_its_end_or_other_commands_need() -> None:
    unwanted = {"matplotlib", "optuna", "sklearn", "datasets", "wandb", "tensorboard", "imageio_ffmpeg"}
    program = f"import smartfast.run.launch, sys; print(sorted({unwanted!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
