"""What a family gets from its base class: seeded networks, the share of an iteration that a phase works on."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from smartfast.config.parse import parse_config
from smartfast.config.schema import SmartConfig
from smartfast.families.adversarial import adversarial_costs
from smartfast.families.base import Family


class Line(Family):
    """One linear layer, and nothing that trains it."""

    def networks(self) -> dict[str, nn.Module]:
        return {"g": nn.Linear(self.resolution, 1)}


Line.__abstractmethods__ = frozenset()


def weight(seed: int) -> torch.Tensor:
    dataset = SimpleNamespace(resolution=8, channels=1, num_classes=0)
    return Line(parse_config([f"--run.seed={seed}"]), dataset).modules["g"].weight


def test_networks_are_functions_of_the_seed_and_leave_torchs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = weight(3), weight(3), weight(4)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("d_steps", [1, 2, 3])
def test_costs_per_training_image_where_the_discriminator_takes_several_steps(d_steps: int) -> None:
    """An iteration shows d_steps batches of n images; the generator's phases run on one of them."""
    g, d, s, n = 1.0, 100.0, 10000.0, 8
    costs = adversarial_costs({"g": g, "d": d, "scorer": s}, SmartConfig(frequency=4), d_steps=d_steps)
    of_an_iteration = d_steps * n * (g + 6 * d) + n * (3 * g + 2 * d) + n * 2 * s / 4
    assert sum(cost.flops_per_image for cost in costs) == pytest.approx(of_an_iteration / (d_steps * n))
