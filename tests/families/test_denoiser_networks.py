"""ADM's and EDM's networks in training: weights at the start, loss, samples, and a scorer that is the average."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from smartfast.config.families import DenoiserGan, DenoiserLoss, UNetOptions
from smartfast.config.schema import Config, DataConfig, OptimConfig, RunConfig, SmartConfig
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.families.denoiser.continuous import EDMDenoiser
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.families.denoiser.network import per_image
from smartfast.families.rounds import Round
from smartfast.families.saved import open_sampler
from smartfast.kernels import philox_normal
from smartfast.networks.unets import NCSNPP, DhariwalOptions, EDMOptions, SongOptions, SongUNet, build_network
from smartfast.networks.unets.layers import Layer
from smartfast.run.training import Training
from smartfast.scorers import Scorer, load_scorer
from smartfast.tools.train_scorer import TrainScorerOptions, train_scorer

UNETS: dict[str, dict[str, Any]] = {
    "adm": dict(block_out_channels=(32, 32), attention=(4,), attention_head_dim=16),
    "edm": dict(block_out_channels=(8, 16), attention=(4,)),
    "edm_dhariwal": dict(block_out_channels=(64,), attention=(8,)),
}
RGB = SimpleNamespace(resolution=8, channels=3, num_classes=5, class_names=None)


def family(network: str, *, loss: DenoiserLoss | None = None, **gan: Any) -> DenoiserFamily:
    settings = DenoiserGan(network=network, layers_per_block=1, **UNETS[network] | gan)
    config = Config(
        run=RunConfig(seed=7), gan=settings, loss=loss or DenoiserLoss(sample_steps=3), optim=OptimConfig(batch=3)
    )
    return DenoiserFamily(config, RGB)


def batch() -> Round:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Round(torch.tensor([3, 900, 2**33]), images.requires_grad_(), torch.tensor([4, 0, 1]))


def moved(module: nn.Module) -> nn.Module:
    """With other weights than those at the start, of which many are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def options(folder: Path, **changes: Any) -> TrainScorerOptions:
    base = TrainScorerOptions(
        dir=str(folder),
        data=DataConfig(resolution=8, labels=True),
        unet=UNetOptions(network="edm", layers_per_block=1, **UNETS["edm"]),
        kimg=0.012,
        batch=6,
        lr_warmup_kimg=0.006,
        tick_kimg=0.006,
        snapshot_kimg=1.0,
        sample_rows=1,
        sample_steps=2,
        label_dropout=0.5,
    )
    return replace(base, **changes)


def check_average(scorer: Scorer, average: nn.Module, network: str) -> None:
    x, t, labels = torch.randn(2, *scorer.image_shape), torch.tensor([30, 700]), torch.tensor([4, 0])
    level = t if network == "adm" else scorer.sigma(t)
    torch.testing.assert_close(scorer.network(x, t, labels), average(x, level, labels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", ["adm", "edm_dhariwal"])
def test_two_iterations_make_a_scorer_that_is_the_average(tmp_path: Path, network: str) -> None:
    schedule = "squaredcos_cap_v2" if network == "adm" else "linear"
    config = family(network, loss=DenoiserLoss(beta_schedule=schedule, lr_warmup_kimg=0)).config
    training = Training(config, open_dataset(DataConfig(resolution=8, labels=True)), device=torch.device("cpu"))
    before = training.ema.parameters.flat.clone()
    for _ in range(2):
        training.run_iteration(RealBatch(batch().images.detach()[:, :1], torch.arange(3)))
    assert not any(skipped.item() for skipped in training.skipped().values())
    assert not any(
        torch.equal(training.ema.parameters.flat, other)
        for other in (before, training.networks["denoiser"].parameters.flat)
    )
    training.family.export(tmp_path, training.averaged_weights(training.state()))
    scorer = load_scorer(str(tmp_path / "scorer"))
    assert (scorer.image_shape, scorer.num_classes) == ((1, 8, 8), 10)
    assert scorer.schedule == ("cosine" if network == "adm" else "edm")
    check_average(scorer, training.ema.module, network)
    start = DenoiserFamily.foreign_weights(tmp_path / "scorer")
    assert start.options["unet"]["network"] == network.partition("_")[0]
    assert all(torch.equal(start.networks["average"][name], w) for name, w in training.ema.module.named_parameters())
    if network == "adm":
        torch.testing.assert_close(training.ema.module.sigmas, scorer.sigmas, rtol=1e-4, atol=0)  # of float32 betas


@pytest.mark.slow
def test_a_run_killed_while_it_saves_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_scorer(options(tmp_path / "whole")) == tmp_path / "whole" / "scorer"

    def die(self: DenoiserFamily, run_dir: Path, weights: dict[str, torch.Tensor]) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(DenoiserFamily, "export", die)
        train_scorer(options(tmp_path / "cut", snapshot_kimg=0.006))
    assert load_newest(tmp_path / "cut").info["images"] == 6
    train_scorer(options(tmp_path / "cut", snapshot_kimg=0.006))
    whole, cut = load_newest(tmp_path / "whole").state, load_newest(tmp_path / "cut").state
    assert whole.keys() == cut.keys() and [n for n in whole if not torch.equal(whole[n], cut[n])] == []
    check_average(load_scorer(str(tmp_path / "cut" / "scorer")), open_sampler(tmp_path / "whole").module, "edm")


def test_loss_of_adm_against_its_formula_in_float64() -> None:
    model, part = family("adm"), batch()
    moved(model.denoiser)
    found, _ = model.denoise(part)
    t = draw_timesteps(7, part.stream, 0, 999)
    eps = philox_normal(7, part.stream, 192, Purpose.SCORE_NOISE).reshape(part.images.shape).double()
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t][:, None, None, None]
    x_t = kept.sqrt() * part.images.detach() + (1 - kept).sqrt() * eps
    prediction = model.denoiser.unet.double()(x_t, t, part.labels)
    torch.testing.assert_close(found.double(), (prediction - eps).square().mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("network", ["edm", "edm_dhariwal"])
def test_loss_of_edm_against_its_formula_in_float64(network: str) -> None:
    """lambda(sigma) |D(y + n; sigma) - y|^2 with EDM's table 1, D from the bare network F."""
    model, part = family(network, loss=DenoiserLoss(ln_sigma_mean=-0.4, ln_sigma_std=1.0)), batch()
    moved(model.denoiser)
    found, _ = model.denoise(part)
    y = part.images.detach().double()
    sigma = (philox_normal(7, part.stream, 1, Purpose.TIMESTEP)[:, 0].double() - 0.4).exp()[:, None, None, None]
    eps = philox_normal(7, part.stream, 192, Purpose.SCORE_NOISE).reshape(y.shape).double()
    x, variance = y + sigma * eps, sigma**2 + 0.25
    raw = model.denoiser.unet.model.double()(x / variance.sqrt(), sigma.flatten().log() / 4, part.labels)
    d = 0.25 / variance * x + sigma * 0.5 / variance.sqrt() * raw
    wanted = (variance / (sigma * 0.5) ** 2 * (d - y) ** 2).mean()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=0)


def test_hidden_classes() -> None:
    """As many as asked for, whatever the batch, and then the network is told a vector of zeros."""
    model = family("edm", loss=DenoiserLoss(label_dropout=0.25))
    numbers = torch.arange(4000)
    shown = model.shown_classes(Round(numbers, torch.zeros(4000, 3, 8, 8), numbers % 5))
    assert torch.equal(shown.argmax(1)[shown.any(1)], (numbers % 5)[shown.any(1)])
    assert (~shown.any(1)).float().mean().item() == pytest.approx(0.25, abs=0.03)
    part = model.shown_classes(Round(numbers[7:9], torch.zeros(2, 3, 8, 8), numbers[7:9] % 5))
    assert torch.equal(part, shown[7:9])
    assert torch.equal(family("edm").shown_classes(batch()), batch().labels)


def test_dropout_is_of_training_alone() -> None:
    model, part = family("adm", dropout=0.5), batch()
    moved(model.denoiser)
    torch.manual_seed(0)
    assert model.denoise(part)[0] != model.denoise(part)[0]
    model.denoiser.eval()
    assert model.denoise(part)[0] == model.denoise(part)[0]


def test_half_precision_trains_all_weights() -> None:
    for network in ("adm", "edm"):
        model = family(network)
        moved(model.denoiser)
        half = DenoiserFamily(replace(model.config, perf=replace(model.config.perf, precision="bf16")), RGB)
        half.denoiser.load_state_dict(model.denoiser.state_dict())
        full, loss = model.denoise(batch())[0], half.denoise(batch())[0]
        assert loss.dtype == torch.float32 and loss != full and loss.item() == pytest.approx(full.item(), rel=0.05)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in half.denoiser.parameters())


def test_samples_of_edm_follow_the_flow_of_a_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exact denoiser gives x(0) = s / sqrt(s^2 + sigma_max^2) x(sigma_max), which Heun nears by order 2."""
    s, noise, errors = 0.6, torch.randn(2, 3, 8, 8), []
    monkeypatch.setattr(EDMDenoiser, "forward", lambda self, x, sigma, labels: x * per_image(s**2 / (s**2 + sigma**2)))
    for steps in (40, 80):
        found = family("edm", loss=DenoiserLoss(sample_steps=steps)).denoiser.samples(None, noise)
        errors.append((found / (noise * 80 * s / math.hypot(s, 80)) - 1).abs().max().item())
    assert errors[0] < 0.01 and 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("network", UNETS)
def test_a_new_network_predicts_almost_nothing(network: str) -> None:
    model, part = family(network).denoiser, batch()
    inner = model.unet if network == "adm" else model.unet.model
    with torch.no_grad():
        assert inner(part.images, torch.tensor([1.0, 2.0, 3.0]), part.labels).abs().max() < (
            1e-4 if network == "edm" else 1e-30
        )


def test_song_begins_with_xavier() -> None:
    torch.manual_seed(0)
    song = SongUNet(
        SongOptions(16, label_dim=4, augment_dim=9, model_channels=32, channel_mult=(1, 2), num_blocks=1, **NCSNPP)
    )
    factors = {"qkv": 0.2**0.5, "conv1": 1e-5, "proj": 1e-5}
    for name, layer in song.named_modules():
        if isinstance(layer, Layer | nn.Linear):
            fan_out, fan_in = layer.weight.shape[0], layer.weight[0].numel()
            pixels = layer.weight[0, 0].numel()
            factor = 1e-5 if name.endswith("aux_conv") else factors.get(name.rpartition(".")[2], 1.0)
            bound = factor * math.sqrt(6 / (fan_in + fan_out * pixels))
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
            assert layer.weight.abs().max() <= bound * 1.001
            assert layer.bias is None or not layer.bias.any()


def test_dhariwal_begins_as_torch_does() -> None:
    torch.manual_seed(0)
    network = build_network(
        EDMOptions(
            DhariwalOptions(16, label_dim=40, augment_dim=9, model_channels=32, channel_mult=(1, 2), num_blocks=1)
        )
    ).model
    assert network.map_label.weight.std().item() == pytest.approx(1, rel=0.05)
    for name, layer in network.named_modules():
        if isinstance(layer, Layer | nn.Linear) and name != "map_label":
            if name.rpartition(".")[2] in ("conv1", "proj", "out_conv", "map_augment"):
                assert not any(parameter.any() for parameter in layer.parameters()), name
                continue
            bound = layer.weight[0].numel() ** -0.5
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
            assert 0 < layer.bias.abs().max() <= bound


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("adm", {"norm_groups": 8}, {}, "gan.norm_groups is 8, expected 32 with gan.network adm"),
    ("adm", {}, {"prediction_type": "sample"}, "loss.prediction_type is sample, expected epsilon with gan.network adm"),
    ("adm", {}, {"label_dropout": 0.1}, "loss.label_dropout is 0.1, expected 0.0 with gan.network adm"),
    ("adm", {"block_out_channels": (48, 96)}, {}, "gan.block_out_channels has 48, expected multiples of the 32 groups"),
    ("edm", {}, {"num_timesteps": 100}, "loss.num_timesteps is 100, expected 1000 with gan.network edm"),
    ("edm", {"block_out_channels": (8, 12)}, {}, "gan.block_out_channels has 12, expected multiples of the first, 8"),
    ("edm", {"block_out_channels": (6, 12)}, {}, "gan.block_out_channels has 6, expected multiples of 4"),
    (
        "edm",
        {"block_out_channels": (48, 96)},
        {},
        "gan.block_out_channels is [48, 96]: 144 channels, expected a multiple",
    ),
    (
        "edm_dhariwal",
        {"block_out_channels": (32, 32)},
        {},
        "gan.attention_head_dim is 64, expected a divisor of the 32",
    ),
    (
        "edm_dhariwal",
        {"attention_head_dim": 32},
        {},
        "gan.attention_head_dim is 32, expected 64 with gan.network edm_dh",
    ),
]


@pytest.mark.parametrize("network, gan, loss, message", REFUSED)
def test_refused(network: str, gan: dict[str, Any], loss: dict[str, Any], message: str) -> None:
    settings = DenoiserGan(network=network, layers_per_block=1, **UNETS[network] | gan)
    config = Config(gan=settings, loss=DenoiserLoss(**loss), smart=SmartConfig(frequency=0))
    with pytest.raises(UserError) as error:
        DenoiserFamily.check_settings(config, 6)
        DenoiserFamily.check_data(config, RGB)
    assert str(error.value).startswith(message)
