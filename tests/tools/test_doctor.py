"""The diagnosis is complete, and survives whatever is broken."""

import importlib.metadata

import pytest
import torch

from smartfast.kernels import registered_ops
from smartfast.tools import doctor as module
from smartfast.tools.doctor import doctor


def test_it_names_versions_devices_and_every_op():
    text = doctor()
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert f"diffusers {importlib.metadata.version('diffusers')}" in text
    assert "cpu: " in text and "GiB" in text
    for op in registered_ops():
        assert f"{op} on cpu: aten (" in text
    assert "modulated_conv2d as triton: " in text and "all others library (" in text
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
    assert "pip install smartfast[xformers]" in text


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
