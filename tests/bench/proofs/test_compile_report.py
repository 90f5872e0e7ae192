"""compile_report compiles without a GPU; in processes of their own, because the tests' one interprets kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


def run(*command: str) -> subprocess.CompletedProcess:
    """Run Python in the repository root, where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def toys() -> dict:
    done = run(str(HERE / "toy_kernels.py"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_quick_report_finds_no_violation() -> None:
    done = run("-m", "bench.proofs.compile_report", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HGMMA" in done.stdout and "slide_kernel" in done.stdout


@pytest.mark.slow
def test_report_refuses_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.proofs.compile_report", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("spilling", "spill"),
        ("narrow", "widest load"),
        ("narrow", "widest store"),
        ("crowded", "shared memory"),
        ("stripped", "no tensor-core instruction"),
    ],
)
def test_limit_fails(toys: dict, kernel: str, expected: str) -> None:
    for capability, found in toys["violations"][kernel].items():
        assert any(expected in text for text in found), f"sm_{capability}: {found}"


@pytest.mark.parametrize("kernel", ["not spilling", "wide", "fp16", "tf32", "ieee"])
def test_limit_holds(toys: dict, kernel: str) -> None:
    assert toys["violations"][kernel] == {"80": [], "90": [], "100": [], "120": []}


def test_tensor_core_instruction(toys: dict) -> None:
    assert toys["tensor_core"] == {"80": "HMMA", "90": "HGMMA", "100": "UTCHMMA", "120": "HMMA"}


@pytest.mark.slow
def test_report_covers_the_networks() -> None:
    done = run(str(HERE / "network_specialisations.py"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["launched"] > 0 and result["missing"] == []


def test_what_only_a_compiler_sees() -> None:
    """An identity filter compiles in every form, and the weights of attention are rounded to TF32 before their uses."""
    done = run(str(HERE / "compiled_alone.py"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["identity"] == ["direct_kernel", "polyphase_kernel", "slide_kernel"]
    gradients = {name: is_rounded for name, is_rounded in found["rounded"].items() if "gradient" in name}
    assert len(gradients) == 2 and all(gradients.values())
