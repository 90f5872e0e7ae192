"""Which fakes the score term scores, and what it adds to a generator's loss."""

from collections.abc import Callable

import pytest
import torch

from smartfast.core.draws import draw_timesteps
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity, squares
from smartfast.run.training import Training
from smartfast.scorers import GaussianMixtureScorer, load_scorer, timestep_range
from smartfast.scorers.schedule import schedule_from_config


def test_scored_part_is_drawn_by_lot_where_batches_are_ordered_by_class(tiny_training: Callable[..., Training]) -> None:
    """Labels 0 0 1 1 2 2 3 3 in every batch: over many batches, half of each class is scored."""
    smart, scorer = tiny_training(smart__batch_fraction=0.5).config.smart, load_scorer("digits")
    score = ScoreRegularity(scorer, timestep_range(scorer, smart), smart, seed=0, weight=smart.weight)
    labels = torch.arange(8) // 2
    images = torch.zeros(8, 1, 8, 8)
    scored = torch.zeros(4)
    for number in range(500):
        batch = Round(torch.arange(8) + 8 * number, images, labels)
        chosen, places = score.choose(batch)
        assert torch.equal(chosen.stream, batch.stream[places]) and len(chosen.stream) == 4
        scored += labels[places].bincount(minlength=4)
    assert (scored / 500 - 1).abs().max() < 0.15  # five standard deviations of 500 draws


@pytest.mark.parametrize("part", [{}, {"smart__separate_pass": "true"}, {"smart__batch_fraction": 0.5}])
def test_the_images_it_names_have_the_gradients_of_the_term_and_of_the_loss(
    part: dict[str, object], tiny_training: Callable[..., Training]
) -> None:
    smart = tiny_training(**part).config.smart
    scorer = GaussianMixtureScorer(schedule_from_config({}, "test"), torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
    score = ScoreRegularity(scorer, timestep_range(scorer, smart), smart, seed=0, weight=smart.weight)
    drawn = torch.randn(2, 8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    fakes, fresh = (images.requires_grad_(True) * 1 for images in drawn.unbind())
    batch, slope = Round(torch.arange(8), fakes, None), torch.linspace(-1, 1, 64).view(8, 8)
    loss, statistics = score.join((fakes * slope).sum(), {}, fakes, None, batch, lambda of: (fresh, None))
    names = ("image_gradient/score", "image_gradient/loss")
    of_term, of_loss = torch.autograd.grad(loss, [statistics[name] for name in names])

    chosen, places = score.choose(batch)
    scored = (
        (fresh if smart.separate_pass else fakes if places is None else fakes[places]).detach().requires_grad_(True)
    )
    t = draw_timesteps(0, chosen.stream, score.timesteps.first, score.timesteps.last)
    distance = smart.weight * score.term(scored, None, t, chosen.stream).mean()
    (expected,) = torch.autograd.grad(distance, scored)
    torch.testing.assert_close(of_term, expected)
    whole = slope.expand(8, 1, 8, 8).clone()
    if not smart.separate_pass:
        whole[slice(None) if places is None else places] += expected
    torch.testing.assert_close(of_loss, whole)


def test_squares_are_cut_anywhere_and_their_gradient_goes_where_they_were() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(400, 2, 5, 7, generator=rng, requires_grad=True)
    lots = torch.rand(400, 2, generator=rng)
    lots[0], lots[1] = 0.0, 1 - 2**-24  # the largest number that is drawn
    cut = squares(images, lots, 3)
    upstream = torch.randn(cut.shape, generator=rng)
    (gradient,) = torch.autograd.grad(cut, images, upstream)
    seen = set()
    for i, (down, right) in enumerate(lots.tolist()):
        top, left = min(int(down * 3), 2), min(int(right * 5), 4)
        seen.add((top, left))
        place = (slice(None), slice(top, top + 3), slice(left, left + 3))
        expected = torch.zeros(2, 5, 7)
        expected[place] = upstream[i]
        assert torch.equal(cut[i], images[i][place]) and torch.equal(gradient[i], expected)
    assert len(seen) == 15 and {(0, 0), (2, 4)} <= seen


def test_which_square_is_scored_is_a_function_of_the_image_number(tiny_training: Callable[..., Training]) -> None:
    smart = tiny_training(smart__crop=5).config.smart
    scorer = GaussianMixtureScorer(schedule_from_config({}, "test"), torch.zeros(2, 1, 5, 5), torch.tensor([0.2, 0.5]))
    score = ScoreRegularity(scorer, timestep_range(scorer, smart), smart, seed=0, weight=smart.weight)
    fakes = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def gradient(first: int, last: int, start: int = 0) -> torch.Tensor:
        part, stream = fakes[first:last] * 1, torch.arange(first, last) + start
        loss, _ = score.join(part.sum() * 0, {}, part, None, Round(stream, part, None), lambda of: (part, None))
        return torch.autograd.grad(loss * (last - first), fakes)[0]

    whole = gradient(0, 8)
    scored = whole != 0
    assert (scored.sum(dim=(1, 2, 3)) == 25).all(), "one square of each image"
    assert len({tuple(image.nonzero()[0].tolist()) for image in scored}) > 3, "at different places"
    torch.testing.assert_close(gradient(0, 4) + gradient(4, 8), whole)
    assert not torch.equal(gradient(0, 8, start=8) != 0, scored)
