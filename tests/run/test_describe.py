"""Parameters, shapes and FLOPs of the networks, and the cost of the phases against design figures and closed forms."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.config.families import StyleGan2Gan, StyleGan2Loss
from smartfast.config.schema import Config, SmartConfig
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.families.stylegan2.networks import build_networks
from smartfast.run.describe import Layer, describe_layers, describe_network, networks_summary, score_share
from smartfast.scorers import Scorer
from smartfast.scorers.schedule import NoiseSchedule


def family(config: Config, resolution: int = 8, channels: int = 1, num_classes: int = 0) -> StyleGan2:
    return StyleGan2(config, SimpleNamespace(resolution=resolution, channels=channels, num_classes=num_classes))


TINY = StyleGan2Gan(channel_base=64, channel_max=8, z_dim=8, w_dim=8, mapping_layers=1)


class Small(nn.Module):
    """A network whose cost is easy to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, stride=2)
        self.inner = nn.ModuleDict({"linear": nn.Linear(5, 7, bias=False)})
        self.scale = nn.Parameter(torch.ones(7, 7))

    def forward(self, x: Tensor, unused: Tensor | None) -> Tensor:
        return self.inner["linear"](self.conv(x).mean(dim=[2, 3])) @ self.scale


class SmallScorer(Scorer):
    """One convolution."""

    def __init__(self) -> None:
        ramp = torch.linspace(0.1, 0.9, 10, dtype=torch.float64)
        schedule = NoiseSchedule(name="test", alphas=(1 - ramp**2).sqrt(), sigmas=ramp)
        super().__init__(schedule, image_shape=(1, 8, 8), num_classes=0, parameterization="eps", dtype=torch.float32)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return self.conv(x_t)


def total_flops(module: nn.Module, inputs) -> int:
    return sum(layer.flops for layer in describe_layers(module, inputs))


def test_layers_by_hand():
    layers = describe_layers(Small(), [torch.zeros(1, 3, 8, 6), None])
    assert layers == [
        Layer("conv", (5, 4, 3), 5 * 3 * 9 + 5, 2 * 4 * 3 * 5 * 3 * 9),
        Layer("inner.linear", (7,), 35, 2 * 5 * 7),
        Layer("(itself)", (7,), 49, 2 * 7 * 7),
    ]


class Attention(nn.Module):
    """Fused attention, which every device runs with another op."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_attention_counts():
    heads, tokens, width = 2, 64, 16
    assert total_flops(Attention(), [torch.zeros(1, heads, tokens, width)]) == 2 * 2 * heads * tokens**2 * width


def test_describing_changes_nothing():
    module = Small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    describe_layers(module, [torch.zeros(2, 3, 8, 8), None])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(m._forward_hooks for m in module.modules())
    assert type(module(torch.zeros(1, 3, 8, 8), None)) is Tensor


def test_table_has_every_parameter_of_the_networks():
    generator, discriminator = build_networks(
        StyleGan2Gan(channel_base=512, channel_max=32, z_dim=16, w_dim=16, mapping_layers=2),
        resolution=16,
        channels=1,
        num_classes=10,
        precision="fp32",
        seed=0,
    )
    g_layers = describe_layers(generator, [torch.zeros(1, 16), torch.zeros(1, 10)])
    d_layers = describe_layers(discriminator, [torch.zeros(1, 1, 16, 16), torch.zeros(1, 10)])
    for module, layers in ((generator, g_layers), (discriminator, d_layers)):
        assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in module.parameters())
    by_name = {layer.name: layer for layer in g_layers}
    assert by_name["synthesis.b16.conv1"].output_shape == (32, 16, 16)
    convolution, affine = 2 * 16 * 16 * 32 * 32 * 9, 2 * 16 * 32
    assert convolution + affine <= by_name["synthesis.b16.conv1"].flops <= 1.01 * (convolution + affine)
    text = describe_network(generator, [torch.zeros(1, 16), torch.zeros(1, 10)])
    lines = text.splitlines()
    assert len(lines) == len(g_layers) + 3 and len({len(line) for line in lines}) == 1
    assert f"{sum(p.numel() for p in generator.parameters()):,}" in lines[-1]


@pytest.mark.parametrize(
    ("gan", "resolution", "num_classes", "g_gflop", "d_gflop", "step_gflop"),
    [
        (StyleGan2Gan(channel_base=16384, mapping_layers=2), 32, 10, 8.0, 8.2, 107),
        (StyleGan2Gan(channel_base=32768), 64, 0, 32, 33, 430),
        (StyleGan2Gan(channel_base=16384), 256, 0, 30, 31, 405),
    ],
    ids=["cifar", "64x64", "paper256"],
)
def test_costs_are_those_of_the_published_networks(gan, resolution, num_classes, g_gflop, d_gflop, step_gflop):
    generator, discriminator = build_networks(
        gan, resolution=resolution, channels=3, num_classes=num_classes, precision="fp32", seed=0
    )
    c = torch.zeros(1, num_classes) if num_classes else None
    g = total_flops(generator, [torch.zeros(1, 512), c])
    d = total_flops(discriminator, [torch.zeros(1, 3, resolution, resolution), c])
    assert g / 1e9 == pytest.approx(g_gflop, rel=0.02)
    assert d / 1e9 == pytest.approx(d_gflop, rel=0.02)
    costs = family(Config(gan=TINY)).costs({"g": g, "d": d})
    assert sum(cost.flops_per_image for cost in costs) / 1e9 == pytest.approx(step_gflop, rel=0.015)


def test_cost_rules():
    config = Config(
        gan=TINY,
        loss=StyleGan2Loss(r1_interval=16, path_length_interval=4, path_length_shrink=2),
        smart=SmartConfig(scorer="digits", frequency=8),
    )
    g, d, s = 1.0, 100.0, 10000.0
    flops = {"g": g, "d": d, "scorer": s}
    costs = {cost.phase: cost for cost in family(config).costs(flops)}
    assert {name: cost.flops for name, cost in costs.items()} == {
        "d_main": g + 6 * d,
        "g_main": 3 * g + 2 * d,
        "d_r1": 6 * d,
        "g_path": 3 * g,
        "score": 2 * s,
    }
    assert costs["score"].flops_per_image == 2 * s / 8 and costs["d_r1"].flops_per_image == 6 * d / 16
    separate = dataclasses.replace(config, smart=dataclasses.replace(config.smart, separate_pass=True))
    assert family(separate).costs(flops)[-1].flops == 2 * s + 3 * g
    cheap = dataclasses.replace(separate.smart, batch_fraction=0.25, through_network=False)
    assert family(dataclasses.replace(config, smart=cheap)).costs(flops)[-1].flops == (s + 3 * g) / 4


def test_phases_that_are_off_cost_nothing():
    for off in (dict(r1_interval=0), dict(r1_gamma=0.0)):
        loss = StyleGan2Loss(path_length_weight=0.0, **off)
        costs = family(Config(gan=TINY, loss=loss)).costs({"g": 1.0, "d": 1.0})
        assert [cost.phase for cost in costs] == ["d_main", "g_main"]


def test_summary_names_networks_scorer_and_phases():
    config = Config(gan=TINY, smart=SmartConfig(scorer="my-scorer", frequency=4))
    text = networks_summary(family(config), SmallScorer(), "my-scorer")
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert {"Generator", "Discriminator", "Scorer", "my-scorer", "d_main", "g_main", "d_r1", "g_path", "score"} <= set(
        rows
    )
    assert rows["my-scorer"].split()[1:] == ["1", "x", "8", "x", "8", "10", "0.00"]
    assert float(rows["score"].split()[1]) == pytest.approx(2 * 2 * 64 * 9 / 1e9, rel=1e-3)
    trained = family(config)
    share = 100 * score_share(trained, SmallScorer())
    assert all(module.training for module in trained.modules.values())
    assert float(rows["score"].split()[-2]) == pytest.approx(share, abs=0.05) and share > 0
    assert "score" not in networks_summary(family(Config(gan=TINY)), None, "").split()
