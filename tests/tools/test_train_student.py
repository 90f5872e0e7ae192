"""train-scorer with a teacher: the run of a student, what it leaves and says, and wrong teachers."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from smartfast.cli import main
from smartfast.config.families import UNetOptions
from smartfast.config.parse import parse_options
from smartfast.config.schema import Config, DataConfig
from smartfast.core.checkpoint import load_newest
from smartfast.core.pixels import to_float
from smartfast.core.run_log import read_rows
from smartfast.data.sources.digits import load_digits
from smartfast.errors import UserError
from smartfast.scorers import load_scorer
from smartfast.tools.train_scorer import STUDENT, TrainScorerOptions, config_of, train_scorer

TINY = UNetOptions(block_out_channels=(4, 8), layers_per_block=1, attention=(), attention_head_dim=4, norm_groups=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The exact scorer of a mixture around some digits, with DDPM's schedule."""
    file = tmp_path_factory.mktemp("teacher") / "mixture.safetensors"
    means = to_float(load_digits(8)[0][:40])
    save_file({"betas": torch.linspace(1e-4, 0.02, 1000), "means": means, "stds": torch.full((40,), 0.3)}, file)
    return str(file)


def options(folder: Path, teacher: str, **changes) -> TrainScorerOptions:
    base = TrainScorerOptions(
        dir=str(folder),
        teacher=teacher,
        interval=(0.1, 0.5),
        data=DataConfig(resolution=8),
        unet=TINY,
        holdout=17,
        kimg=0.024,
        batch=6,
        lr_warmup_kimg=0.012,
        tick_kimg=0.012,
        snapshot_kimg=1.0,
        sample_rows=1,
        sample_steps=2,
    )
    return replace(base, **changes)


@pytest.mark.slow
def test_a_student_that_was_killed_ends_bit_equal(
    teacher: str,
    tmp_path: Path,
    killed_at_second_export: Callable,
    capsys: pytest.CaptureFixture,
    read_report: Callable,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_scorer(options(whole, teacher)) == whole / "scorer"
    said = capsys.readouterr().out
    assert f"teacher: {teacher}, t = " in said and "score term" not in said
    assert "teacher/cosine" in said and "teacher/perturbed_mean_cosine" in said
    with killed_at_second_export():
        train_scorer(options(cut, teacher, snapshot_kimg=0.012))
    train_scorer(options(cut, teacher, snapshot_kimg=0.012))
    expected, found = load_newest(whole).state, load_newest(cut).state
    assert expected.keys() == found.keys() and not any(name.startswith("teacher") for name in expected)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    measured = [
        [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "measured"][-1] for run in (whole, cut)
    ]
    assert measured[0] == measured[1] and -1 <= measured[0]["teacher/cosine"] <= 1
    assert load_scorer(str(cut / "scorer")).learnt_interval == (0.1, 0.5)
    assert read_report(cut / "report.html")["subtitle"] == f"Data digits, batch 6, student of {teacher}"


def test_a_dry_run_holds_the_costs_against_the_teachers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config=digits_student", "--interval", "0.1", "0.5", "--dry_run"]
    assert main(["train-scorer", *arguments]) == 0
    said = capsys.readouterr().out
    forward, gradient, theirs, their_gradient, ratio = map(
        float,
        re.search(
            r"As a scorer: ([\d.]+) MFLOP per image forward, ([\d.]+) with the gradient; the teacher ([\d.]+) and "
            r"([\d.]+): ([\d.]+) times as much",
            said,
        ).groups(),
    )
    assert gradient == pytest.approx(2 * forward, rel=0.01) and their_gradient == pytest.approx(2 * theirs, rel=0.01)
    assert ratio == pytest.approx(forward / theirs, rel=0.01) and 0 < ratio < 1
    assert "teacher: t = " in said and "score term" not in said and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": None}, "interval is not set, expected one with teacher"),
        ({"teacher": None}, "teacher is not set, expected one with interval"),
        ({"teacher": "nowhere"}, "teacher: 'nowhere' is no folder, expected `digits`"),
        ({"interval": (0.5, 0.1)}, "interval: 0.5, 0.1 holds no timestep, expected 0 < low <= high"),
        ({"holdout": 0}, "holdout is 0, expected images to hold gradients against the teacher's on"),
        ({"teacher": "digits"}, "teacher: 'digits' has resolution 16, expected the data's 8"),
        ({"prediction_type": "sample"}, "prediction_type is sample, expected epsilon, as the teacher has it"),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule is scaled_linear, expected that of the teacher"),
        (
            {"unet": replace(TINY, network="edm", norm_groups=32, attention_head_dim=64)},
            "unet.network is edm, expected",
        ),
    ],
)
def test_refused(teacher: str, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message)) as error:
        train_scorer(replace(options(tmp_path / "run", teacher), **changes))
    assert "\n" not in str(error.value) and "smart." not in str(error.value) and not (tmp_path / "run").exists()


def test_what_a_student_is_where_nobody_says() -> None:
    def unet(*arguments: str) -> Config:
        command = ["--teacher=digits", "--interval=0.1,0.5", *arguments]
        return config_of(parse_options(TrainScorerOptions, command, command="train-scorer")).gan

    assert unet().block_out_channels == STUDENT.block_out_channels and unet().layers_per_block == 1
    assert unet("--unet.network=edm").block_out_channels == STUDENT.block_out_channels
    assert unet("--unet.layers_per_block=3").block_out_channels == UNetOptions().block_out_channels
