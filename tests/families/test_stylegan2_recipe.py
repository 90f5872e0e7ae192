"""What the phases draw for themselves."""

from collections.abc import Callable

import torch

from smartfast.families.stylegan2_recipe import Round
from smartfast.run.training import Training


def test_scored_part_is_drawn_by_lot_where_batches_are_ordered_by_class(tiny_training: Callable[..., Training]) -> None:
    """Labels 0 0 1 1 2 2 3 3 in every batch: over many batches, half of each class is scored."""
    recipe = tiny_training(smart__batch_fraction=0.5).recipe
    labels = torch.arange(8) // 2
    images = torch.zeros(8, 1, 8, 8)
    scored = torch.zeros(4)
    for number in range(500):
        batch = Round(torch.arange(8) + 8 * number, images, labels)
        score = recipe._score_batch(batch)
        assert torch.equal(score.stream, batch.stream[score.chosen]) and len(score.t) == 4
        scored += labels[score.chosen].bincount(minlength=4)
    assert (scored / 500 - 1).abs().max() < 0.15  # five standard deviations of 500 draws
