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

_SCORED = ["--optim.batch=8", "--smart.timesteps=20,100"]
OTHERS = {
    "r3gan": [*_SCORED, "--gan.z_dim=8", "--gan.widths=8,8", "--gan.cardinalities=4,4", "--gan.blocks=1,1"],
    "aurora": [
        *(*_SCORED, "--gan.z_dim=8", "--gan.w_dim=8", "--gan.mapping_layers=2", "--gan.mapping_width=8"),
        *("--gan.embedding=4", "--gan.kernels=1,2", "--gan.blocks=1,1", "--gan.attention=0,1", "--gan.experts=0,3"),
        *("--gan.channel_base=256", "--gan.channel_max=32", "--gan.heads=2", "--gan.head_dim=8"),
        *("--gan.d_channel_base=64", "--gan.d_channel_max=8", "--gan.d_mapping_layers=1"),
    ],
    "biggan": [
        *(*_SCORED, "--gan.z_dim=8", "--gan.shared_dim=4", "--gan.width_g=2", "--gan.width_d=2"),
        *("--gan.attention_g=16", "--gan.attention_d=[]", "--gan.sampling=running"),
    ],
}
AGES = np.stack([np.linspace(-1, 2, 24), np.arange(24) % 2], axis=1)
"""Of each image a continuous label and one that is there or not."""


def write_set(path: Path, labels: np.ndarray, side: int = 8) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 1), dtype=np.uint8)
    np.savez(path, images=pixels, labels=labels)
    return str(path)


def train_steps(options: list[str]) -> Training:
    config = parse_config(options)
    dataset = open_dataset(config.data)
    check_config(config, dataset, device=torch.device("cpu"))
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    means = torch.zeros(2, 1, dataset.resolution, dataset.resolution)
    scorer = GaussianMixtureScorer(schedule, means, torch.tensor([0.2, 0.5]))
    timesteps = timestep_range(scorer, config.smart)
    training = Training(config, dataset, scorer=scorer, timesteps=timesteps, device=torch.device("cpu"))
    batches = real_batches(training)
    for _ in range(4):
        training.run_iteration(next(batches))
    return training


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", ["stylegan2", *OTHERS])
def test_a_run_on_one_hot_vectors_is_that_on_classes(tiny_options: Callable, tmp_path: Path, family: str) -> None:
    """As many images of each class, in order: then Aurora, which draws classes alike, draws the labels of images."""
    classes, runs = np.arange(24) // 8, []
    for name, labels in (("classes", classes), ("vectors", np.eye(3)[classes])):
        path = write_set(tmp_path / f"{name}.npz", labels, side=32 if family == "biggan" else 8)
        data = dict(data__path=path, data__labels="true", smart__frequency=2)
        options = tiny_options(tmp_path, **data)
        if family in OTHERS:
            given = [f"--{key.replace('__', '.')}={value}" for key, value in data.items()]
            options = [f"--gan.family={family}", *OTHERS[family], *given]
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


def test_it_trains_is_measured_and_reported(run_dir: Path, read_report: Callable) -> None:
    rows = read_rows(run_dir / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows if row["kind"] == "tick"] == [0] * 4
    assert [row["metric/diversity_digits"] > 0 for row in rows if row["kind"] == "metrics"] == [True, True]
    assert "src" in read_report(run_dir / "report.html")["strip"]
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


def test_standing_statistics_need_classes(tmp_path: Path) -> None:
    path = write_set(tmp_path / "ages.npz", AGES, side=32)
    config = parse_config(["--gan.family=biggan", f"--data.path={path}", "--data.labels=true"])
    with pytest.raises(UserError, match="^gan.sampling is standing, expected running: ages has label vectors"):
        check_config(config, open_dataset(config.data), device=torch.device("cpu"))


def test_a_scorer_with_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels = np.zeros((24, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=AGES)
    options = [f"--data.path={tmp_path / 'set.npz'}", "--data.labels=true", f"--run.dir={tmp_path / 'run'}"]
    assert main(["train", *options, "--smart.scorer=digits", "--smart.timesteps=20,100", "--perf.cpu_threads=1"]) == 2
    assert "smart.scorer: 'digits' has 10 classes, set has label vectors; expected" in capsys.readouterr().err
