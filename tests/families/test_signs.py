"""What a discriminator's step says of the game, against sums over pairs."""

import itertools
import math

import pytest
import torch

from smartfast.families.signs import game_signs, spread


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 1, 0], [3, 3, 3, 3, 3, 3]])
def test_spread_is_the_mean_over_pairs_of_a_class(labels: list[int] | None) -> None:
    """Bright images that differ little: the difference of large numbers."""
    images = 0.9 + 0.01 * torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pairs = [(i, j) for i, j in itertools.combinations(range(6), 2) if labels is None or labels[i] == labels[j]]
    exact = images.double()
    expected = sum((exact[i] - exact[j]).square().mean() for i, j in pairs) / len(pairs)
    found = spread(images, None if labels is None else torch.tensor(labels))
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_vectors_are_no_classes_and_images_of_as_many_classes_have_no_spread() -> None:
    images = torch.randn(4, 1, 4, 4)
    assert spread(images, torch.rand(4, 3)) == spread(images, None)
    assert math.isnan(spread(images, torch.arange(4)))
    assert spread(images[:1].expand(4, 1, 4, 4), None) == 0


def test_signs_of_a_step() -> None:
    reals, fakes = torch.randn(4, 1, 4, 4).requires_grad_(True), torch.zeros(4, 1, 4, 4)
    found = game_signs(fakes, None, reals, None, right=torch.tensor([[True], [True], [False], [True]]))
    assert found["discriminator/accuracy"] == 0.75 and found["spread/fakes"] == 0
    assert found["spread/reals"] == spread(reals.detach(), None) and not any(x.requires_grad for x in found.values())
