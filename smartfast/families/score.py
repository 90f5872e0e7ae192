"""Score-matching regularity in a GAN's training: which fakes are scored, at which timesteps, and the joined loss."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.config.schedule import Schedule
from smartfast.config.schema import SmartConfig
from smartfast.core.draws import Purpose, are_vectors, draw_timesteps
from smartfast.engine.phase import Carried, PhaseResult
from smartfast.engine.schedules import DeviceScalars
from smartfast.families.rounds import Round
from smartfast.kernels import philox_uniform
from smartfast.scorers import Scorer, TimestepRange
from smartfast.scorers.term import ScoreTerm

Redraw = Callable[[Round], tuple[Tensor, Tensor | None]]
"""Fakes of a generator pass of its own for a round, and their labels."""


TERMS_GRADIENT, LOSS_GRADIENT = "image_gradient/score", "image_gradient/loss"
_PACE = 0.1
"""Of each step's deviation from smart.balance, on a logarithmic scale, what the weight makes up for."""
_FARTHEST = 1e4
"""How far from smart.weight the weight may move, as a factor."""


def squares(images: Tensor, lots: Tensor, size: int) -> Tensor:
    """A square of each image, [N, C, size, size] of [N, C, H, W], anywhere in it with the same chance.

    Args:
        images: Differentiated for.
        lots: Uniform numbers [N, 2] in [0, 1), of rows and columns.
        size: Of the squares, at most H and W.
    """
    n, channels, height, width = images.shape
    inside = torch.arange(size, device=images.device)
    # A product may round up to the number of places.
    rows, columns = (
        (lots[:, axis, None] * (length - size + 1)).long().clamp(max=length - size) + inside
        for axis, length in enumerate((height, width))
    )
    of_rows = images.gather(2, rows[:, None, :, None].expand(n, channels, size, width))
    return of_rows.gather(3, columns[:, None, None, :].expand(n, channels, size, size))


def score_variables(smart: SmartConfig) -> dict[str, Tensor]:
    """A family's variables that belong to the score term: the weight, where it moves with smart.balance."""
    if not smart.frequency or smart.balance is None:
        return {}
    assert not isinstance(smart.weight, Schedule), "checked before"
    return {"score_weight": torch.tensor(smart.weight)}


def score_weight(smart: SmartConfig, variables: Mapping[str, Tensor], scalars: DeviceScalars) -> Tensor | float:
    """lambda_score: a number, or a scalar on the device that follows smart.balance or a schedule.

    Args:
        variables: The family's, on the device of the run.
        scalars: Makes a scheduled weight a scalar on the device.
    """
    weight = smart.weight
    if isinstance(weight, Schedule):
        return scalars.add(weight.at)
    return variables.get("score_weight", weight)


class Chosen(NamedTuple):
    """The images of a round that are scored. places: theirs in the round, int64 [K], None = all."""

    batch: Round
    places: Tensor | None


class ScoreRegularity:
    """The score term of a run (SMaRt eq. 10 and 15), for any generator.

    Args:
        scorer: Frozen diffusion model.
        timesteps: That t is drawn from.
        smart: Its settings.
        seed: Of the run.
        weight: See `score_weight`.
        loss_scale: Of the phase that it joins.
    """

    def __init__(
        self,
        scorer: Scorer,
        timesteps: TimestepRange,
        smart: SmartConfig,
        *,
        seed: int,
        weight: Tensor | float,
        loss_scale: float = 1.0,
    ) -> None:
        self.timesteps, self.smart, self.seed = timesteps, smart, seed
        self.weight = weight
        self.term = ScoreTerm(
            scorer,
            seed=seed,
            purpose=int(Purpose.SCORE_NOISE),
            through_network=smart.through_network,
            downscale=smart.downscale,
            distance=smart.distance,
            loss_scale=loss_scale,
        )

    def choose(self, batch: Round) -> Chosen:
        """By lot, smart.batch_fraction of a round: its first images may be those of the first classes."""
        if self.smart.batch_fraction == 1:
            return Chosen(batch, None)
        lots = philox_uniform(self.seed, batch.stream, 1, int(Purpose.SCORE_PART))[:, 0]
        places = lots.argsort()[: math.ceil(self.smart.batch_fraction * len(lots))]
        return Chosen(batch.at(places), places)

    def join(
        self,
        adversarial: Tensor,
        statistics: dict[str, Tensor],
        fakes: Tensor,
        labels: Tensor | None,
        batch: Round,
        redraw: Redraw,
    ) -> PhaseResult:
        """The adversarial loss plus lambda_score * L_score, so that one backward pass serves both.

        Args:
            adversarial: The generator's loss, a scalar.
            statistics: Of the phase.
            fakes, labels: Images float [N, C, H, W] behind `adversarial` and their labels int64 [N] or None: the term
                acts on them, or some of them. It is the mean over the images it scores. No scorer is told vectors.
            batch: The round.
            redraw: Draws the fakes instead where smart.separate_pass asks for fresh ones.

        Returns:
            The loss and the statistics, with those of the term: its mean distance, the error in eps that it amounts to,
            and the length of the gradient for the images, of the term and of the whole loss (smart.separate_pass: of
            the rest).
        """
        whole = fakes
        chosen, places = self.choose(batch)
        t = draw_timesteps(self.seed, chosen.stream, self.timesteps.first, self.timesteps.last)
        if self.smart.separate_pass:
            fakes, labels = redraw(chosen)
        elif places is not None:
            fakes, labels = fakes[places], None if labels is None else labels[places]
        classes = None if are_vectors(labels) else labels
        scored = fakes.view_as(fakes)  # the gradient for this view is the term's alone
        distances = self.term(self._seen(scored, chosen.stream), classes, t, chosen.stream)
        distance = distances.mean()
        loss = adversarial + self.weight * distance
        if isinstance(self.weight, Tensor):
            statistics = statistics | {"score/weight": self.weight.clone()}
        return loss, statistics | {
            "loss/score": distance.detach(),
            "score/error_in_eps": self.term.in_eps(distances.detach(), t).mean(),
            TERMS_GRADIENT: scored,
            LOSS_GRADIENT: whole,
        }

    def _seen(self, images: Tensor, stream: Tensor) -> Tensor:
        """What of the images is scored: all of them, or a square of each, by lot."""
        size = self.smart.crop
        if size is None:
            return images
        lots = philox_uniform(self.seed, stream, 2, int(Purpose.SCORE_CROP))
        return squares(images, lots, size)

    @property
    def carried(self) -> tuple[Carried, ...]:
        """Of the phase that has the statistics of `join`: they move the weight where smart.balance asks for it.

        Both lengths multiply it by a small power of what they are, so that its share of the whole tends to the one
        that is asked for, as fast from above as from below.
        """
        weight, share, first = self.weight, self.smart.balance, self.smart.weight
        if share is None:
            return ()
        assert isinstance(weight, Tensor) and not isinstance(first, Schedule), "checked before"

        def move(factor: Tensor, bad: Tensor) -> None:
            moved = (weight * factor[0].clamp(1e-6, 1e6) ** _PACE).clamp(first / _FARTHEST, first * _FARTHEST)
            weight.copy_(torch.where(bad > 0, weight, moved))

        return (
            Carried(LOSS_GRADIENT, 1, lambda length, bad: move(share * length, bad), is_shown=True),
            Carried(TERMS_GRADIENT, 1, lambda length, bad: move(1 / length, bad), is_shown=True),
        )
