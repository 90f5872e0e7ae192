"""What a family gets from its base class: seeded networks."""

from types import SimpleNamespace

import torch
from torch import nn

from smartfast.config.parse import parse_config
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
