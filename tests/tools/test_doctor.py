"""The diagnosis is complete, and survives whatever is broken."""

import importlib.metadata

import pytest
import torch

from smartfast.cli import main
from smartfast.core.caches import CACHE_VARIABLE
from smartfast.kernels import registered_ops
from smartfast.kernels.odd_calls import odd_calls
from smartfast.tools import doctor as module
from smartfast.tools import doctor_kernels
from smartfast.tools.doctor import doctor


def test_it_names_versions_devices_and_every_op():
    text = doctor()
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert f"diffusers {importlib.metadata.version('diffusers')}" in text
    assert "cpu: " in text and "GiB" in text
    for op in registered_ops():
        assert f"{op} on cpu: aten (" in text
    assert "modulated_conv2d as triton: " in text and "all others library (" in text
    assert "verified, " in text and " calls timed" in text
    assert "failed:" not in text


def test_a_broken_part_is_said_and_the_rest_appears(monkeypatch):
    def broken(*_):
        raise RuntimeError("driver\nlost")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    text = doctor()
    assert "failed: RuntimeError: driver lost" in text
    assert f"torch {importlib.metadata.version('torch')}" in text and "bundled digits" in text


def test_missing_packages_name_their_extra(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    text = doctor()
    assert "triton not installed, but needed" in text and "no routes of modulated_conv2d without triton" in text
    assert "pip install -e .[xformers]" in text


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert "no C++ compiler" in doctor()


def test_an_impossible_choice_of_kernels_is_said(monkeypatch):
    monkeypatch.setattr("smartfast.kernels.selection._choice", "fast")
    text = doctor()
    assert "bias_act on cpu: fails:" in text and "expected one of auto, triton, aten" in text


@pytest.mark.parametrize(
    ("problem", "text"), [(None, "xformers' own kernels run too"), ("built for 2.9", "attention; built for 2.9")]
)
def test_attention(monkeypatch, problem, text):
    monkeypatch.setattr("smartfast.scorers.attention.xformers_problem", lambda device: problem)
    assert text in doctor()


def test_kernels_are_verified_where_there_is_something_to_run_them(monkeypatch, tmp_path, capsys):
    """Few calls, for the interpreter is slow: all of them are what the command itself checks."""
    few = [call for call in odd_calls() if call.op in ("bias_act", "grouped_linear")][:2]
    monkeypatch.setattr("smartfast.tools.doctor_kernels.odd_calls", lambda: few)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert main(["doctor", "--verify"]) == 0
    assert "bias_act: right in 2 calls\n" in capsys.readouterr().out
    monkeypatch.setattr("smartfast.tools.doctor_kernels.INTERPRETED", False)
    if not torch.cuda.is_available():
        for option in ("--verify", "--tune"):
            assert main(["doctor", option]) == 2
            assert f"doctor {option}: found no GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_ways_are_timed_at_the_shapes_of_a_preset_and_carried_elsewhere(monkeypatch, tmp_path, capsys):
    """The machinery as a user starts it: one call, for the interpreter is slow, and two machines that are this one."""
    noted = doctor_kernels.calls_of

    def few(training, *, every_route):
        calls = noted(training, every_route=every_route)
        assert {"conv_gemm", "finish", "philox_normal"} <= {call.op for call in calls}
        return [call for call in calls if call.op == "philox_normal"][:1]

    monkeypatch.setattr(doctor_kernels, "calls_of", few)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "a"))
    table = tmp_path / "table.json"
    assert main(["doctor", "--tune", "--export", str(table)]) == 0
    out = capsys.readouterr().out
    assert "kernels: tuned 1 calls\n" in out and f"{table}: times of 1 calls on " in out
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "b"))
    assert main(["doctor", f"--import={table}"]) == 0
    assert ": 1 of 1 calls were new\n" in capsys.readouterr().out
    assert main(["doctor", "--import", str(tmp_path / "none")]) == 2
    assert "expected a file of --export" in capsys.readouterr().err
