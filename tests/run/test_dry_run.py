"""`--run.dry_run` describes every preset on a machine that has neither its data nor its scorer."""

import re
from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.config.parse import parse_config, presets

LARGE = "aurora_imagenet64"
"""A thousand million parameters take their time to begin."""


@pytest.mark.sample(5)
@pytest.mark.parametrize("preset", [pytest.param(p, marks=pytest.mark.slow) if p == LARGE else p for p in presets()])
def test_every_preset_without_its_data(preset, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"--config={preset}", "--run.dry_run=true", "--perf.cpu_threads=1"]) == 0
    said = capsys.readouterr().out
    assert "memory: at least " in said and "GFLOP per training image" in said
    data = parse_config([f"--config={preset}"]).data
    is_there = data.path.startswith(("digits", "plane:"))
    assert ("which is not there" in said) != is_there
    if not is_there:
        assert f"{data.resolution} x {data.resolution}" in said and (data.classes is None) == (not data.labels)
    assert not list(tmp_path.iterdir())


def test_a_scorer_that_is_yet_to_be_trained_is_left_out(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--config=digits", "--smart.scorer=runs/scorer/scorer", "--run.dry_run=true", "--run.kimg=1000000"]
    assert main(["train", *options]) == 0
    said = capsys.readouterr().out
    assert "score term: not described, smart.scorer runs/scorer/scorer is not there\n" in said
    total = float(re.search(r"total +([\d.]+) +100", said)[1])
    tflop = float(re.search(r"run.kimg 1e\+06: ([\d.e+]+) TFLOP, \d+m \d+s at 100 TFLOP/s sustained", said)[1])
    assert tflop == pytest.approx(1e6 * total, rel=0.01)
    assert main(["train", *options[:2]]) == 2
    assert "smart.scorer: 'runs/scorer/scorer' is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["--data.resolution=null", "--data.classes=null", "--run.dry_run=false"])
def test_what_no_preset_tells_is_asked_for(setting, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config=cifar10", "--run.dry_run=true", setting]) == 2
    assert "data.path: datasets/cifar10.zip does not exist" in capsys.readouterr().err
