"""`smartfast evaluate` on a run folder with an untrained generator."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smartfast.config.families import StyleGan2Gan
from smartfast.config.parse import config_to_yaml, parse_options
from smartfast.config.schema import Config, DataConfig, MetricsConfig, RunConfig
from smartfast.core.checkpoint import save_checkpoint
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.families.stylegan2.networks import generator_options
from smartfast.metrics import evaluate
from smartfast.networks.stylegan2 import Generator
from smartfast.tools.evaluate import DataOptions, EvaluateOptions, MetricsOptions, evaluate_command

GAN = StyleGan2Gan(z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, channel_max=8)
METRICS = MetricsConfig(names=("fid", "diversity"), samples=40, batch=16, features="digits")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 2 kimg on the digits."""
    folder = tmp_path / "run"
    folder.mkdir()
    options = generator_options(GAN, resolution=16, channels=1, num_classes=10)
    torch.manual_seed(0)
    generator = Generator(**options)
    state = {"nothing": torch.zeros(1)}
    weights = generator.state_dict()
    save_checkpoint(folder, images=2000, state=state, generator=weights, generator_options=options, info={}, keep=1)
    config = Config(
        run=RunConfig(dir=str(folder), seed=5), data=DataConfig(resolution=16, labels=True), gan=GAN, metrics=METRICS
    )
    (folder / "config.yaml").write_text(config_to_yaml(config))
    return folder


def checkpoint_of(run_dir: Path) -> Path:
    (folder,) = (run_dir / "checkpoints").iterdir()
    return folder


def without_seconds(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not name.endswith("seconds")}


def test_repeats_the_figures_of_the_run_and_writes_them(run_dir, capsys):
    found = evaluate_command(EvaluateOptions(checkpoint=str(run_dir), device="cpu"))
    dataset = open_dataset(DataConfig(resolution=16, labels=True))
    sampler = open_sampler(run_dir).of_data(dataset.labels, seed=5)
    expected = evaluate(sampler, dataset, METRICS, device="cpu", progress=False)
    assert without_seconds(found) == without_seconds(expected)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["metric/fd_digits"] == found["fd_digits"] and record["kimg"] == 2.0 and record["seed"] == 5
    assert json.loads((run_dir / "metrics-000002.json").read_text()) == record


def test_a_second_time_gives_the_same_numbers_and_says_of_what(run_dir, capsys):
    """With the subsets of the kernel distance drawn anew, and the reals' features from the cache."""
    options = EvaluateOptions(
        checkpoint=str(run_dir), device="cpu", metrics=MetricsOptions(names=("fid", "kid", "prc", "diversity", "isc"))
    )
    first, second = (evaluate_command(options) for _ in range(2))
    assert without_seconds(first) == without_seconds(second) and len(without_seconds(first)) == 6
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    for record in records:
        of = {name: record[name] for name in ("features", "samples", "resizing", "reference")}
        assert of == {
            "features": "digits",
            "samples": 40,
            "resizing": "16 x 16, antialiased bicubic",
            "reference": "digits",
        }


@pytest.mark.parametrize("part", ["", "generator_ema.safetensors"])
def test_a_checkpoint_finds_its_run(run_dir, part, capsys):
    path = checkpoint_of(run_dir) / part
    found = evaluate_command(EvaluateOptions(checkpoint=str(path), device="cpu"))
    assert set(found) == {"fd_digits", "diversity_digits", "seconds"}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kimg"] == 2.0
    assert not list(run_dir.glob("metrics-*.json")), "only the run folder itself gets a file"


def test_options_override_the_run(run_dir, capsys):
    arguments = ["--checkpoint", str(run_dir), "--metrics.samples", "30", "--metrics.names", "[prc]", "--seed", "1"]
    options = parse_options(
        EvaluateOptions, [*arguments, "--device", "cpu", "--truncation_psi", "0.5"], command="evaluate"
    )
    found = evaluate_command(options)
    assert set(found) == {"precision_digits", "recall_digits", "seconds"}
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["samples"], record["seed"], record["truncation_psi"]) == (30, 1, 0.5)


def test_seed_and_truncation_change_the_samples(run_dir):
    base = EvaluateOptions(checkpoint=str(run_dir), device="cpu")
    variants = (base, replace(base, seed=6), replace(base, truncation_psi=0.3))
    values = [evaluate_command(options)["fd_digits"] for options in variants]
    assert len(set(values)) == 3


def test_a_lone_generator_needs_data(run_dir, tmp_path):
    for name in ("generator_ema.safetensors", "generator_ema.json"):
        (checkpoint_of(run_dir) / name).rename(tmp_path / name)
    path = str(tmp_path / "generator_ema.safetensors")
    metrics = MetricsOptions(samples=30, features="digits")
    with pytest.raises(UserError, match="^data.path: not given"):
        evaluate_command(EvaluateOptions(path, metrics=metrics, device="cpu"))
    found = evaluate_command(EvaluateOptions(path, data=DataOptions(path="digits"), metrics=metrics, device="cpu"))
    assert set(found) == {"fd_digits", "seconds"}


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(metrics=MetricsOptions(samples=1)), "metrics.samples is 1, expected a whole number from 2"),
        (dict(metrics=MetricsOptions(batch=0)), "metrics.batch is 0, expected a whole number from 1"),
        (dict(metrics=MetricsOptions(names=())), "metrics.names is [], expected one or more of them"),
        (dict(data=DataOptions(resolution=32)), "data.path: digits has resolution 32, expected 16 as the generator"),
        (dict(seed=-1), "seed is -1, expected a whole number from 0 to"),
        (
            dict(metrics=MetricsOptions(features="inception", weights="nowhere.pth")),
            "metrics.weights: no file nowhere.pth",
        ),
    ],
)
def test_one_line_for_what_cannot_work(run_dir, options, message):
    with pytest.raises(UserError) as caught:
        evaluate_command(EvaluateOptions(checkpoint=str(run_dir), device="cpu", **options))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
