"""Whole runs on the CPU: resume, kill, signals, two processes, the run folder. Tiny networks on the bundled digits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.run.launch import launch
from smartfast.run.training import Training
from smartfast.scorers import load_scorer, timestep_range

TRAIN = Path(__file__).parents[2] / "smartfast" / "train.py"
KILLS = int(os.environ.get("SMARTFAST_TEST_KILLS", "3"))
"""How often the kill test kills; CI keeps it short."""

TINY = {
    "data.resolution": 16,
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.mbstd_group": 4,
    "loss.path_length_weight": 2,
    "loss.path_length_interval": 4,
    "loss.style_mixing_prob": 0.5,
    "optim.batch": 8,
    "smart.frequency": 2,
    "smart.self_check": "false",
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": 0.04,
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
}


def options(run_dir: Path, kimg: float, **changes) -> list[str]:
    """Command line of a tiny run; changes are given as group__field=value."""
    settings = TINY | {"run.dir": run_dir, "run.kimg": kimg}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in settings.items()]


def train(run_dir: Path, kimg: float, **changes) -> dict[str, torch.Tensor]:
    """Train in this process; returns the last checkpoint's state."""
    assert launch(parse_config(options(run_dir, kimg, **changes)))
    return load_newest(run_dir).state


def start(arguments: Sequence[str], launcher: Sequence[str] = ()) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [*(launcher or [sys.executable]), str(TRAIN), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, word: str) -> None:
    """Read the output up to a line with `word`."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return
    raise AssertionError(f"{word!r} did not appear in:\n{''.join(seen)}")


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return train(tmp_path_factory.mktemp("uninterrupted"), 0.24)


def test_resumed_run_is_bit_equal(tmp_path: Path, uninterrupted: dict[str, torch.Tensor]) -> None:
    train(tmp_path, 0.08)
    assert_equal(train(tmp_path, 0.24), uninterrupted)
    kimg = [row["kimg"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert kimg == sorted(kimg) and kimg[-1] == 0.24


def test_damaged_checkpoint_is_named_and_the_run_continues_exactly(
    tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    train(tmp_path, 0.16)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=f"{newest.name} is passed over"):
        assert_equal(train(tmp_path, 0.24), uninterrupted)


def test_killed_run_ends_bit_equal(tmp_path: Path, uninterrupted: dict[str, torch.Tensor]) -> None:
    """kill -9 at random moments after training has begun, checkpoint writes included."""
    moments = random.Random(time.time_ns())
    killed = 0
    for _ in range(KILLS):
        process = start(options(tmp_path, 0.24))
        wait_for(process, "run:")
        time.sleep(moments.uniform(0, 1.0))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed, "every process had finished before it could be killed"
    process = start(options(tmp_path, 0.24))
    assert process.wait(timeout=120) == 0, process.stdout.read()
    assert_equal(load_newest(tmp_path).state, uninterrupted)


@pytest.mark.sample(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process = start(options(tmp_path, 1000.0, run__snapshot_ticks=1000))
    wait_for(process, "tick 1")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"{number.name}: saved at" in output and "Traceback" not in output
    images = load_newest(tmp_path).info["images"]
    assert 0 < images < 1_000_000 and images % 8 == 0


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> float:
    flat = [torch.cat([s[n].double().flatten() for n in sorted(s) if n.startswith(prefix)]) for s in (a, b)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.mark.sample(4)
@pytest.mark.parametrize("prefix", ["ema/", "g/module/", "d/module/"])
def test_gradient_accumulation_equals_the_whole_batch(tmp_path: Path, prefix: str) -> None:
    changes = dict(loss__path_length_weight=0, loss__r1_interval=4)  # the path mean sees one round at a time
    whole = train(tmp_path / "whole", 0.08, **changes)
    rounds = train(tmp_path / "rounds", 0.08, optim__batch_gpu=4, **changes)
    assert relative_difference(rounds, whole, prefix) < 1e-5


def test_two_processes_equal_one(tmp_path: Path) -> None:
    changes = dict(metrics__every_ticks=6, metrics__samples=65)
    one = train(tmp_path / "one", 0.24, **changes)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    process = start(options(tmp_path / "two", 0.24, **changes), launcher=launcher)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    two = load_newest(tmp_path / "two").state
    for prefix in ("ema/", "g/module/", "d/module/", "path_mean"):
        assert relative_difference(two, one, prefix) < 1e-4, prefix
    fid = [
        [r["metric/fd_digits"] for r in read_rows(tmp_path / n / "metrics.jsonl") if "metric/fd_digits" in r]
        for n in ("one", "two")
    ]
    assert len(fid[0]) == 2 and fid[1] == pytest.approx(fid[0], rel=1e-2)


def test_run_folder_has_what_the_readme_says(tmp_path: Path) -> None:
    train(
        tmp_path,
        0.08,
        run__tracker="tensorboard",
        metrics__every_ticks=2,
        metrics__samples=64,
        run__keep_checkpoints=1,
        run__tick_kimg=0.02,
        run__snapshot_ticks=2,
    )
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    tracked = {name for name in names if name.startswith("tensorboard/")}
    assert tracked and names - tracked == {
        "config.yaml",
        "metrics.jsonl",
        "reals.png",
        "fakes_init.png",
        "fakes000000.040.png",
        "fakes000000.080.png",
        "report.html",
        "interpolation000000.080.png",
        *(f"checkpoints/000000.080/{name}" for name in CHECKPOINT_FILES),
    }
    rows = read_rows(tmp_path / "metrics.jsonl")
    ticks = [row for row in rows if row["kind"] == "tick"]
    assert [row["tick"] for row in ticks] == [1, 2, 3, 4]
    assert {"loss/d_main", "loss/g_main", "loss/score", "loss/r1", "ms/g_score", "images_per_sec"} <= ticks[0].keys()
    assert all("metric/fd_digits" in row for row in rows if row["kind"] == "metrics")
    state = load_file(tmp_path / "checkpoints/000000.080/generator_ema.safetensors")
    assert "synthesis.b16.conv1.affine.weight" in state
    assert json.loads((tmp_path / "checkpoints/000000.080/checkpoint.json").read_text())["images"] == 80


CHECKPOINT_FILES = ("checkpoint.json", "state.safetensors", "generator_ema.safetensors", "generator_ema.json")


@pytest.mark.usefixtures("not_finite")
def test_run_stops_with_a_message_when_losses_stay_non_finite(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from smartfast.cli import main

    arguments = options(tmp_path, 1.0, run__max_bad_steps=5)
    assert main(["train", *arguments]) == 2
    assert "limit run.max_bad_steps 5: the loss or a gradient was not finite" in capsys.readouterr().err


def test_profile_traces_iterations_of_a_training_and_leaves_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from smartfast.cli import main

    assert main(["profile", *options(tmp_path, 1000.0, perf__profile=2, loss__r1_interval=4)]) == 0
    text = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["profile", "profile.txt", "trace.json.gz"]
    assert "2 iterations, " in text and "d_main: " in text and (tmp_path / "profile/profile.txt").read_text() in text


def test_dry_run_describes_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert launch(parse_config(options(tmp_path / "run", 1.0, run__dry_run="true")))
    text = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for word in ("frequency: 2", "synthesis.b16.conv1", "b4.conv", "sigma/alpha", "GF"):
        assert word in text, word
    assert "SMaRt's at" not in text  # it has no images of 16 pixels


def test_the_papers_interval_stands_beside_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scorer = tmp_path / "scorer.safetensors"
    save_file({"betas": torch.full([99], 0.02), "means": torch.zeros(1, 1, 32, 32), "stds": torch.ones(1)}, scorer)
    changes = dict(data__resolution=32, smart__scorer=scorer, smart__noise_to_signal="[0.5,0.9]")
    assert launch(parse_config(options(tmp_path / "run", 1.0, run__dry_run="true", **changes)))
    assert "score term: t = " in (text := capsys.readouterr().out) and "(SMaRt's at 32 pixels: 0.005..0.0078)" in text


def test_an_iteration_reads_nothing_back_from_the_device(tmp_path: Path, read_backs: Callable) -> None:
    config = parse_config(options(tmp_path, 1, gan__mbstd_by_class="true"))
    device, dataset, scorer = torch.device("cpu"), open_dataset(config.data), load_scorer("digits")
    training = Training(config, dataset, scorer=scorer, timesteps=timestep_range(scorer, config.smart), device=device)
    reals = RealBatch(torch.randn(8, 1, 16, 16), torch.arange(8) % 4)
    training.run_iteration(reals)
    with read_backs() as read:
        for _ in range(4):
            training.run_iteration(reals)
    assert read.found == []
