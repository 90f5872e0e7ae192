"""The toy family on the common trainer: what its phases compute, runs that stop, and one line for what cannot be."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose
from smartfast.core.run_log import read_rows
from smartfast.data import open_dataset
from smartfast.kernels import philox_normal
from smartfast.run.resume import absolute
from smartfast.run.training import Training, real_batches
from smartfast.scorers import load_scorer, timestep_range

TINY = """--config=toy_ring --gan.width=8 --gan.depth=2 --optim.batch=16 --run.tracker=none --run.tick_kimg=0.016
--run.snapshot_ticks=1 --metrics.samples=64 --metrics.batch=64 --metrics.every_ticks=2 --perf.cpu_threads=1""".split()


def train(run_dir: Path, kimg: float, *changes: str) -> dict[str, Tensor]:
    """The state at the end of a run in this process."""
    assert main(["train", *TINY, f"--run.dir={run_dir}", f"--run.kimg={kimg}", *changes]) == 0
    return load_newest(run_dir).state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 8 iterations, every fourth with the score term."""
    folder = tmp_path_factory.mktemp("toy")
    train(folder, 0.128)
    return folder


def test_it_trains_measures_and_shows_points(run: Path) -> None:
    rows = read_rows(run / "metrics.jsonl")
    ticks = [row for row in rows if row["kind"] == "tick"]
    assert len(ticks) == 8 and all(row["skipped_steps"] == 0 for row in ticks)
    assert {row["tick"] for row in ticks if "loss/score" in row} == {1, 5}
    measured = [row for row in rows if row["kind"] == "metrics"]
    assert [row["kimg"] for row in measured] == [0, 0.032, 0.064, 0.096, 0.128]
    names = {"metric/off_plane", "metric/distance_plane", "metric/wasserstein_plane", "metric/covered_plane"}
    assert all(names <= row.keys() and all(math.isfinite(row[name]) for name in names) for row in measured)
    reals = np.array(Image.open(run / "reals.png").convert("L")) < 255
    rows_of, columns = reals.nonzero()
    radius = np.hypot(rows_of - 127.5, columns - 127.5) / 128 * 1.2
    assert len(radius) > 500 and np.abs(radius - 0.8).max() < 0.02
    assert "a generator of points" in (run / "report.html").read_text()  # in place of an interpolation


def test_a_run_that_stopped_ends_bit_equal(run: Path, tmp_path: Path) -> None:
    train(tmp_path, 0.048)
    state, end = train(tmp_path, 0.128), load_newest(run).state
    assert state.keys() == end.keys() and [name for name in end if not torch.equal(state[name], end[name])] == []


def make_training() -> Training:
    config = parse_config([*TINY, "--run.seed=3"])
    scorer = load_scorer("plane:ring", precision="fp32")
    interval = timestep_range(scorer, config.smart)
    data = open_dataset(config.data)
    return Training(config, data, scorer=scorer, timesteps=interval, device=torch.device("cpu"), say=lambda line: None)


def forward(module: nn.Sequential, x: Tensor) -> Tensor:
    """A network of linear layers in float64, with its own activations."""
    for layer in module:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().double().T + layer.bias.detach().double()
        else:
            x = layer(x)
    return x


def test_losses_are_those_of_the_formulas() -> None:
    training = make_training()
    batches = real_batches(training)
    training.load(next(batches))
    batches.close()
    (round_,), g, d = training.rounds, *training.family.modules.values()
    fakes = {
        purpose: forward(g, philox_normal(3, torch.arange(16), 2, purpose).double())
        for purpose in (Purpose.D_MAIN, Purpose.G_MAIN)
    }
    reals = training.batch.images.detach().flatten(1).double().requires_grad_()
    real_logits = forward(d, reals)
    (slopes,) = torch.autograd.grad(real_logits.sum(), reals)
    d_loss = F.softplus(forward(d, fakes[Purpose.D_MAIN])).mean() + F.softplus(-real_logits).mean()
    penalty = slopes.square().sum(dim=1).mean()
    g_loss = F.softplus(-forward(d, fakes[Purpose.G_MAIN])).mean()
    loss, statistics = training.phases["d_main"].spec.loss(round_)
    assert loss.item() == pytest.approx(float(d_loss + 0.1 / 2 * penalty), rel=1e-5)
    assert statistics["loss/r1"].item() == pytest.approx(float(penalty), rel=1e-4)
    assert training.phases["g_main"].spec.loss(round_)[0].item() == pytest.approx(float(g_loss), rel=1e-5)
    scored, statistics = training.phases["g_score"].spec.loss(round_)
    weight = training.config.smart.weight
    assert statistics["loss/score"] > 0
    assert scored.item() == pytest.approx(float(g_loss) + weight * statistics["loss/score"].item(), rel=1e-5)


def test_the_data_are_points_of_their_own_and_not_rounded() -> None:
    images = make_training().dataset.all_images()
    assert images.dtype == torch.float32 and images.shape == (4096, 2, 1, 1)
    assert (images.flatten(1).double().norm(dim=1) - 0.8).abs().max() < 1e-6


def test_evaluate_measures_a_checkpoint_as_the_run_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"--checkpoint={run}"]) == 0
    last = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "metrics"][-1]
    said = capsys.readouterr().out
    for name in ("off_plane", "distance_plane", "wasserstein_plane", "covered_plane"):
        assert f"{name:<20} {last[f'metric/{name}']:12.5g}" in said


def test_a_folder_of_that_name_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ring").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("plane:ring") == "plane:ring"


LINES = {
    "images": (["--data.path=digits"], "data.path is digits, expected plane:ring, "),
    "unknown": (["--data.path=plane:cube"], "data.path is plane:cube, expected one of plane:ring, "),
    "pixels": (["--data.resolution=16"], "data.resolution is 16, expected unset: plane:ring is of points"),
    "labels": (["--data.labels=true"], "data.labels is True, expected unset: plane:ring is of points"),
    "another family": (
        ["--gan.family=r3gan"],
        "data.path is plane:ring, expected images with gan.family r3gan",
    ),
    "another scorer": (["--smart.scorer=digits"], "smart.scorer: 'digits' has resolution 16, expected the GAN's 1"),
    "features of images": (["--metrics.features=digits"], "metrics.features is digits, expected plane for points"),
    "a metric of classes": (["--metrics.names=isc"], "metrics.names has isc, expected it with metrics.features"),
    "half precision": (["--perf.precision=bf16"], "perf.precision is bf16, expected fp32 or tf32 with gan.family toy"),
}


@pytest.mark.parametrize("changes, line", LINES.values(), ids=LINES)
def test_what_cannot_be_is_one_line(
    changes: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = TINY if "--gan.family=r3gan" not in changes else ["--data.path=plane:ring", "--metrics.every_ticks=0"]
    assert main(["train", *base, f"--run.dir={tmp_path / 'run'}", *changes]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_points_metrics_are_of_points_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--config=digits", "--metrics.names=manifold", f"--run.dir={tmp_path / 'run'}"]
    assert main(["train", *changes]) == 2
    assert "metrics.names has manifold, expected it with metrics.features plane" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "interpolate"])
def test_commands_of_images_say_that_there_are_none(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"--checkpoint={run}", f"--out={tmp_path / 'x.png'}"]) == 2
    assert "found a generator of points in the plane, expected one of images" in capsys.readouterr().err
