"""Before training: a scorer that cannot score is found, and one that can never is."""

import os

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from smartfast.cli import main
from smartfast.core.pixels import to_float
from smartfast.data.sources.digits import load_digits
from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer, UNetScorer, check_predictions, load_scorer
from smartfast.scorers.interval import TimestepRange
from smartfast.scorers.loading import BUNDLED
from smartfast.scorers.schedule import edm_schedule, schedule_from_config

LINEAR = schedule_from_config({}, "test")
SLOW = "SMARTFAST_TEST_SLOW" in os.environ
ENDS = [(0, 0), (0, 999), (25, 35), (25, 250), (500, 600), (999, 999)]


def interval(first, last):
    return TimestepRange(first, last, 0.0, 0.0, 1000, "test")


def digits(count=16):
    images, labels = load_digits(16)
    chosen = torch.arange(count) * len(images) // count
    return to_float(images[chosen]), labels[chosen]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("count", [1, 16] if SLOW else [2])
def test_the_bundled_scorer_passes(precision, ends, count):
    check_predictions(load_scorer("digits", precision=precision), interval(*ends), *digits(count), name="digits")


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
@pytest.mark.parametrize("t", [0, 1, 30, 300, 700, 999])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "edm"])
def test_the_best_predictions_pass_at_every_timestep(parameterization, t, schedule):
    cosine = schedule_from_config({"beta_schedule": "squaredcos_cap_v2"}, "test")
    chosen = {"linear": LINEAR, "cosine": cosine, "edm": edm_schedule()}[schedule]
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(2, 3, 8, 8, generator=generator) * 0.5
    mixture = GaussianMixtureScorer(
        chosen, means, torch.tensor([0.1, 0.2]), parameterization=parameterization, dtype=torch.float64
    )
    images = means[torch.arange(16) % 2] + 0.15 * torch.randn(16, 3, 8, 8, generator=generator)
    check_predictions(mixture, interval(t, t), images, None, name="mixture")


def random_network(seed, **changes):
    torch.manual_seed(seed)
    config = {"sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(**config, **blocks, block_out_channels=(8, 16), attention_head_dim=8, **changes)


@pytest.mark.parametrize("seed", range(10 if SLOW else 1))
@pytest.mark.parametrize("ends", [(5, 8), (25, 35)], ids=str)
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_network_that_was_never_trained(parameterization, ends, seed):
    scorer = UNetScorer(random_network(seed), LINEAR, parameterization=parameterization)
    with pytest.raises(UserError, match="'mine' predicts no better than zero.*t = .*expected less") as error:
        check_predictions(scorer, interval(*ends), *digits(), name="mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_a_network_that_says_nothing(parameterization):
    network = random_network(0)
    for weight in network.conv_out.parameters():
        torch.nn.init.zeros_(weight)
    scorer = UNetScorer(network, LINEAR, parameterization=parameterization)
    with pytest.raises(UserError, match="predicts no better than zero"):
        check_predictions(scorer, interval(25, 250), *digits(), name="mine")


WEIGHTS = ["conv_in.weight", "conv_out.bias", "time_embedding.linear_1.weight", "class_embedding.weight"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_that_is_no_number(tmp_path, weight, value, precision):
    for file in BUNDLED["digits"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights[weight].view(-1)[0] = value
    save_file(weights, file, {"format": "pt"})
    scorer = load_scorer(str(tmp_path), precision=precision)
    named = weight.replace("time_embedding", "time_embedding.*")
    with pytest.raises(UserError, match=f"smart.scorer: 'mine' has {value} in .*{named}, expected finite weights"):
        check_predictions(scorer, interval(25, 250), *digits(), name="mine")


def test_a_weight_that_half_precision_cannot_hold():
    network = random_network(0)
    with torch.no_grad():
        network.conv_in.weight[0, 0, 0, 0] = 1e6
    scorer = UNetScorer(network, LINEAR, parameterization="eps", dtype=torch.float16)
    with pytest.raises(UserError, match="inf in unet.conv_in.weight, expected finite weights .*float16"):
        check_predictions(scorer, interval(25, 250), *digits(), name="mine")


def test_activations_that_half_precision_cannot_hold():
    network = random_network(0)
    with torch.no_grad():
        network.conv_in.weight.fill_(6e4)
    scorer = UNetScorer(network, LINEAR, parameterization="eps", dtype=torch.float16)
    with pytest.raises(UserError, match="'mine' predicts numbers that are not finite at t = 25 in float16, expected"):
        check_predictions(scorer, interval(25, 250), *digits(), name="mine")


@pytest.mark.parametrize("ends", [(0, 10), (0, 0)])
def test_fourier_features_have_no_timestep_0(ends):
    scorer = UNetScorer(random_network(0, time_embedding_type="fourier"), LINEAR, parameterization="eps")
    with pytest.raises(UserError, match="'mine' predicts numbers that are not finite at t = 0 in float32, expected"):
        check_predictions(scorer, interval(*ends), *digits(), name="mine")


@pytest.mark.parametrize(
    ("changes", "size"), [({"norm_num_groups": -1}, 16), ({}, 15), ({"num_class_embeds": 0}, 16)], ids=str
)
def test_a_network_that_does_not_run(changes, size):
    network = random_network(0, **{name: value for name, value in changes.items() if name != "norm_num_groups"})
    if "norm_num_groups" in changes:
        network.conv_norm_out.num_groups = -1
    scorer = UNetScorer(network, LINEAR, parameterization="eps")
    images = torch.zeros(2, 1, size, size)
    with pytest.raises(UserError, match="smart.scorer: 'mine' does not run") as error:
        check_predictions(scorer, interval(25, 250), images, None, name="mine")
    assert "\n" not in str(error.value)


def test_what_it_draws_is_its_own():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_predictions(load_scorer("digits"), interval(25, 250), *digits(), name="digits")
    assert torch.equal(before, torch.get_rng_state())


def test_training_does_not_start(tmp_path, capsys):
    """The whole command, with one weight of the scorer lost: one line that names the scorer, and no checkpoint."""
    folder = tmp_path / "lost"
    folder.mkdir()
    for file in BUNDLED["digits"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    options = {"smart.scorer": folder, "run.dir": tmp_path / "run", "metrics.every_ticks": 0, "perf.cpu_threads": 1}
    assert main(["train", *[f"--{name}={value}" for name, value in options.items()]]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"smart.scorer: '{folder}' has nan in unet.conv_in.weight, expected finite weights" in line
    assert not list(tmp_path.glob("run/checkpoints/*"))
