"""train-scorer: one more family of the common trainer, with the same promises, and a scorer as its result."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from smartfast.cli import main
from smartfast.config.families import UNetOptions
from smartfast.config.schema import DataConfig
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.errors import UserError
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.scorers import load_scorer
from smartfast.tools.train_scorer import TrainScorerOptions, train_scorer

TINY = UNetOptions(
    block_out_channels=(4, 8), layers_per_block=1, attention=(4,), attention_head_dim=4, norm_groups=2, dropout=0.0
)


def options(folder: Path, **changes) -> TrainScorerOptions:
    base = TrainScorerOptions(
        dir=str(folder),
        data=DataConfig(resolution=8, labels=True, mirror=True),
        unet=TINY,
        holdout=17,
        kimg=0.024,
        batch=6,
        lr_warmup_kimg=0.012,
        lr_decay="cosine",
        tick_kimg=0.012,
        snapshot_kimg=1.0,
        sample_rows=1,
        sample_steps=2,
    )
    return replace(base, **changes)


def command_line(folder: Path, **changes) -> list[str]:
    """The same as options of the command."""
    settings = {"dir": folder, "data.resolution": 8, "data.labels": "true", "data.mirror": "true", "holdout": 17}
    settings |= {"unet.block_out_channels": "[4,8]", "unet.layers_per_block": 1, "unet.attention": "[4]"}
    settings |= {"unet.attention_head_dim": 4, "unet.norm_groups": 2, "kimg": 0.024, "batch": 6, "lr_decay": "cosine"}
    settings |= {
        "lr_warmup_kimg": 0.012,
        "tick_kimg": 0.012,
        "snapshot_kimg": 1.0,
        "sample_rows": 1,
        "sample_steps": 2,
    } | changes
    return [f"--{name}={value}" for name, value in settings.items()]


def start(arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "smartfast.cli", "train-scorer", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, word: str) -> None:
    assert any(word in line for line in process.stdout), f"{word!r} did not appear"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train_scorer(options(folder)) == folder / "scorer"
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_newest(folder).state


def test_a_run_killed_while_it_saves_ends_bit_equal(
    finished: Path, tmp_path: Path, killed_at_second_export: Callable
) -> None:
    with killed_at_second_export():
        train_scorer(options(tmp_path, snapshot_kimg=0.012))
    train_scorer(options(tmp_path, snapshot_kimg=0.012))
    expected, found = state(finished), state(tmp_path)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_kill_9_at_a_random_moment_and_sigterm_lose_nothing(finished: Path, tmp_path: Path) -> None:
    often = dict(snapshot_kimg=0.006)
    process = start(command_line(tmp_path, **often))
    wait_for(process, "run:")
    time.sleep(time.time() % 1)
    process.kill()
    process.wait()
    process = start(command_line(tmp_path, **often, kimg=1000))
    wait_for(process, "tick")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and "SIGTERM: saved at" in output and "Traceback" not in output
    fresh = tmp_path / "fresh"
    process = start(command_line(fresh, snapshot_kimg=0.012))
    wait_for(process, "run:")
    process.kill()
    process.wait()
    assert main(["train-scorer", *command_line(fresh, snapshot_kimg=0.012)]) == 0
    assert [name for name, value in state(finished).items() if not torch.equal(value, state(fresh)[name])] == []


@pytest.mark.slow
def test_two_processes_equal_one(finished: Path, tmp_path: Path) -> None:
    """Same data, noise and timesteps, the batch split over two processes; equal to rounding."""
    process = start(
        command_line(tmp_path), launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-2000:]
    one, two = state(finished), state(tmp_path)
    # Adam divides a gradient by its size, so rounding may turn the step of an almost dead weight: compare to the step.
    steps = 4 * options(tmp_path).lr
    assert all((one[key] - two[key]).abs().max() < 0.05 * steps for key in one if "/module/" in key)


def test_the_scorer_is_the_average_and_has_what_loading_needs(finished: Path) -> None:
    scorer = load_scorer(str(finished / "scorer"))
    assert (scorer.image_shape, scorer.num_classes) == ((1, 8, 8), 10)
    unet, tensors = UNet2DModel.from_pretrained(finished / "scorer"), state(finished)
    for name, weight in unet.named_parameters():
        average = tensors[f"ema/unet.{name}"]
        torch.testing.assert_close(weight.detach(), average)
        assert not torch.equal(average, tensors[f"denoiser/module/unet.{name}"]) or weight.numel() < 2
    assert not list(finished.glob("*.partial"))


def test_images_that_are_numbered_otherwise_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Folders named in words are sorted by name: eight comes first."""
    assert json.loads((finished / "scorer" / "class_names.json").read_text()) == list("0123456789")
    for number, name in enumerate("zero one two three four five six seven eight nine".split()):
        (tmp_path / "words" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * number).save(tmp_path / "words" / name / "0.png")
    command = ["train", "--data.labels=true", f"--smart.scorer={finished / 'scorer'}", "--smart.timesteps=3,9"]
    assert main([*command, f"--data.path={tmp_path / 'words'}", f"--run.dir={tmp_path / 'run'}"]) == 2
    assert "calls class 0 '0' (class_names.json), expected 'eight' as the GAN's" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_run_folder_is_that_of_every_run(finished: Path, read_report: Callable) -> None:
    names = {path.name for path in finished.iterdir()}
    expected = {"config.yaml", "metrics.jsonl", "reals.png", "fakes_init.png", "fakes000000.024.png", "report.html"}
    assert names == expected | {"checkpoints", "scorer", "interpolation000000.024.png"}
    rows = read_rows(finished / "metrics.jsonl")
    assert "warning" not in {row["kind"] for row in rows}
    (row,) = [row for row in rows if row["kind"] == "measured"]
    assert row["kimg"] == 0.024 and row["heldout/100-199"] > 0
    assert "denoise" in [row[0] for row in read_report(finished / "report.html")["costs"]]
    samples = finished / "samples.png"
    assert main(["generate", f"--checkpoint={finished}", "--seeds=0-3", f"--out={samples}", "--device=cpu"]) == 0
    assert samples.stat().st_size > 0
    samples.unlink()
    assert main(["train", f"--config={finished / 'config.yaml'}"]) == 0, "its config.yaml is one of smartfast train"


def test_a_dry_run_says_nothing_of_a_score_term(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-scorer", *command_line(tmp_path / "run", kimg=0.024), "--dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "Estimated cost" in said and "score term" not in said and not (tmp_path / "run").exists()


def test_finished_run_does_nothing_more(finished: Path) -> None:
    before = load_file(load_newest(finished).path / "state.safetensors")
    files = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert train_scorer(options(finished)) == finished / "scorer"
    assert all(torch.equal(value, before[name]) for name, value in state(finished).items())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0, "dir": "new"}, "batch is 0, expected a whole number from 1"),
        ({"snapshot_kimg": 0.0}, "snapshot_kimg is 0.0, expected a number from 0.001"),
        ({"seed": 1, "kimg": 1.0}, "seed is 1, but the run in"),
        ({"beta_schedule": "scaled_linear", "kimg": 1.0}, "beta_schedule is scaled_linear, but the run in"),
        ({"holdout": 1797, "dir": "new"}, "holdout is 1797, expected 0 to 1796"),
        (
            {"unet": replace(TINY, block_out_channels=(4,) * 5), "dir": "new"},
            "unet.block_out_channels has 5 levels, expected fewer for 8 pixels",
        ),
        ({"unet": replace(TINY, norm_groups=3), "dir": "new"}, "unet.block_out_channels has 4, expected multiples of"),
        (
            {"unet": replace(TINY, attention_head_dim=3), "dir": "new"},
            "unet.attention_head_dim is 3, expected",
        ),
        ({"grad_clip": 0.0, "dir": "new"}, "grad_clip is 0.0, expected a number from 1e-6"),
        ({"data": DataConfig("/a/stylegan.zip"), "dir": "new"}, "data.path: /a/stylegan.zip does not exist, expected"),
        ({"teacher_null_class": 1, "dir": "new"}, "teacher_null_class is set, expected one with teacher"),
    ],
)
def test_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^" + re.escape(message)):
        train_scorer(options(finished, **changes))


def test_a_folder_of_an_older_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot continue, expected another folder"):
        train_scorer(options(tmp_path))


def test_a_loss_that_stays_non_finite_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoise = DenoiserFamily.denoise

    def poisoned(self: DenoiserFamily, batch: object) -> tuple:
        loss, statistics = denoise(self, batch)
        return loss * float("nan"), statistics

    monkeypatch.setattr(DenoiserFamily, "denoise", poisoned)
    with pytest.raises(UserError, match="steps of denoise up to .* were skipped"):
        train_scorer(options(tmp_path, kimg=1.0, tick_kimg=0.012))
