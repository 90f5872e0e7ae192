"""Which fakes the score term scores, and what it adds to a generator's loss."""

from collections.abc import Callable

import torch

from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity
from smartfast.run.training import Training
from smartfast.scorers import load_scorer, timestep_range


def test_scored_part_is_drawn_by_lot_where_batches_are_ordered_by_class(tiny_training: Callable[..., Training]) -> None:
    """Labels 0 0 1 1 2 2 3 3 in every batch: over many batches, half of each class is scored."""
    smart, scorer = tiny_training(smart__batch_fraction=0.5).config.smart, load_scorer("digits")
    score = ScoreRegularity(scorer, timestep_range(scorer, smart), smart, seed=0)
    labels = torch.arange(8) // 2
    images = torch.zeros(8, 1, 8, 8)
    scored = torch.zeros(4)
    for number in range(500):
        batch = Round(torch.arange(8) + 8 * number, images, labels)
        chosen, places = score.choose(batch)
        assert torch.equal(chosen.stream, batch.stream[places]) and len(chosen.stream) == 4
        scored += labels[places].bincount(minlength=4)
    assert (scored / 500 - 1).abs().max() < 0.15  # five standard deviations of 500 draws
