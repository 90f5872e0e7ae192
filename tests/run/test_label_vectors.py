"""Runs on label vectors: equal to runs on classes where the vectors are one-hot; commands; what refuses them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.run.checks import check_config
from smartfast.run.training import Training, real_batches
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

pytestmark = pytest.mark.usefixtures("own_cache")

R3GAN = [
    *("--gan.family=r3gan", "--gan.z_dim=8", "--gan.widths=8,8", "--gan.cardinalities=4,4", "--gan.blocks=1,1"),
    *("--optim.batch=8", "--smart.timesteps=20,100"),
]
AGES = np.stack([np.linspace(-1, 2, 24), np.arange(24) % 2], axis=1)
"""Of each image a continuous label and one that is there or not."""


def write_set(path: Path, labels: np.ndarray) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    np.savez(path, images=pixels, labels=labels)
    return str(path)


def train_steps(options: list[str]) -> Training:
    config = parse_config(options)
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
    timesteps = timestep_range(scorer, config.smart)
    training = Training(
        config, open_dataset(config.data), scorer=scorer, timesteps=timesteps, device=torch.device("cpu")
    )
    batches = real_batches(training)
    for _ in range(4):
        training.run_iteration(next(batches))
    return training


@pytest.mark.parametrize("family", ["stylegan2", "r3gan"])
def test_a_run_on_one_hot_vectors_is_that_on_classes(tiny_options: Callable, tmp_path: Path, family: str) -> None:
    classes, runs = np.arange(24) % 3, []
    for name, labels in (("classes", classes), ("vectors", np.eye(3)[classes])):
        data = dict(data__path=write_set(tmp_path / f"{name}.npz", labels), data__labels="true", smart__frequency=2)
        options = tiny_options(tmp_path, **data)
        if family == "r3gan":
            options = [*R3GAN, *(f"--{key.replace('__', '.')}={value}" for key, value in data.items())]
        runs.append(train_steps(options))
    assert runs[0].batch.labels.dtype == torch.int64 and runs[1].batch.labels.shape == (8, 3)
    of_classes, of_vectors = (run.state() for run in runs)
    assert of_classes.keys() == of_vectors.keys()
    assert [name for name in of_classes if not torch.equal(of_classes[name], of_vectors[name])] == []
    assert "g_score" in runs[0].phases


@pytest.fixture(scope="module")
def run_dir(tiny_options: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on `AGES`."""
    folder = tmp_path_factory.mktemp("vectors")
    path = write_set(folder / "ages.npz", AGES)
    metrics = dict(metrics__every_ticks=4, metrics__names="fid,diversity", metrics__samples=64)
    assert main(["train", *tiny_options(folder / "run", data__path=path, data__labels="true", **metrics)]) == 0
    return folder / "run"


def test_it_trains_is_measured_and_reported(run_dir: Path) -> None:
    rows = read_rows(run_dir / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows if row["kind"] == "tick"] == [0] * 4
    assert [row["metric/diversity_digits"] > 0 for row in rows if row["kind"] == "metrics"] == [True, True]
    assert "Not available" not in (run_dir / "report.html").read_text()
    with Image.open(run_dir / "reals.png") as reals, Image.open(run_dir / "fakes_init.png") as fakes:
        assert reals.size == fakes.size


def test_a_run_that_stopped_ends_bit_equal(tiny_options: Callable, run_dir: Path, tmp_path: Path) -> None:
    data = dict(data__path=run_dir.parent / "ages.npz", data__labels="true")
    for kimg in (0.032, 0.064):
        assert main(["train", *tiny_options(tmp_path / "run", run__kimg=kimg, **data)]) == 0
    whole, parts = load_newest(run_dir).state, load_newest(tmp_path / "run").state
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_sampler_knows_some_vectors_of_its_data(run_dir: Path) -> None:
    sampler = open_sampler(run_dir)
    assert torch.equal(sampler.data_labels, torch.tensor(AGES[np.arange(16) * 24 // 16], dtype=torch.float32))
    assert sampler.num_classes == 2


def test_generate_takes_a_vector_and_else_those_of_the_data(run_dir: Path, tmp_path: Path) -> None:
    def images(name: str, *options: str) -> dict[str, np.ndarray]:
        out = tmp_path / name
        command = ["generate", f"--checkpoint={run_dir}", f"--out={out}", "--noise=none", "--device=cpu", *options]
        assert main(command) == 0
        return {path.name: np.array(Image.open(path)).astype(int) for path in out.iterdir()}

    given = images("given", "--seeds=3,5", "--label=0.2,-1.5")
    assert set(given) == {"seed0003.png", "seed0005.png"}
    generator = open_sampler(run_dir).module
    for seed in (3, 5):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        expected = generator(z, torch.tensor([[0.2, -1.5]]), noise="none")
        pixels = (expected[0, 0] * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()
        assert np.abs(given[f"seed{seed:04d}.png"] - pixels).max() <= 1
    usual = images("usual", "--seeds=3")["seed0003.png"]
    known = images("known", "--seeds=3", f"--label={AGES[3 * 24 // 16][0]},{AGES[3 * 24 // 16][1]}")["seed0003.png"]
    assert np.abs(usual - known).max() <= 1 and np.abs(usual - given["seed0003.png"]).max() > 1


def test_the_other_commands_take_the_vectors_of_the_data(run_dir: Path, tmp_path: Path) -> None:
    for command in ("interpolate", "style-mix"):
        out = tmp_path / f"{command}.png"
        assert main([command, f"--checkpoint={run_dir}", f"--out={out}", "--device=cpu"]) == 0 and out.is_file()
    assert main(["evaluate", f"--checkpoint={run_dir}", "--device=cpu"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label=1"], "label: found 1 numbers, expected the generator's 2"),
        (["--label=1,nan"], "label"),
        (["--label=1,2", "--classes=0"], "label: found [1.0, 2.0] beside classes '0', expected one of the two"),
    ],
)
def test_labels_that_generate_refuses(
    run_dir: Path, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["generate", f"--checkpoint={run_dir}", "--device=cpu", *options]) == 2
    assert f"smartfast: error: {message}" in capsys.readouterr().err


def test_a_label_needs_a_conditional_generator(make_checkpoint: Callable, capsys: pytest.CaptureFixture) -> None:
    assert main(["generate", f"--checkpoint={make_checkpoint()}", "--label=1", "--device=cpu"]) == 2
    assert "label: found [1.0], expected none: the generator was trained without labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--gan.mbstd_by_class=true"], "^gan.mbstd_by_class is true, expected false: the labels .* are vectors"),
        (
            ["--gan.family=denoiser"],
            "^data.labels is true, expected false: ages has label vectors, gan.family denoiser",
        ),
    ],
)
def test_settings_that_need_classes_are_refused(run_dir: Path, changes: list[str], message: str) -> None:
    config = parse_config([f"--data.path={run_dir.parent / 'ages.npz'}", "--data.labels=true", *changes])
    with pytest.raises(UserError, match=message):
        check_config(config, open_dataset(config.data), device=torch.device("cpu"))


def test_a_scorer_with_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels = np.zeros((24, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=AGES)
    options = [f"--data.path={tmp_path / 'set.npz'}", "--data.labels=true", f"--run.dir={tmp_path / 'run'}"]
    assert main(["train", *options, "--smart.scorer=digits", "--smart.timesteps=20,100", "--perf.cpu_threads=1"]) == 2
    assert "smart.scorer: 'digits' has 10 classes, set has label vectors; expected" in capsys.readouterr().err
