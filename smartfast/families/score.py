"""Score-matching regularity in a GAN's training: which fakes are scored, at which timesteps, and the joined loss."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from smartfast.config.schema import SmartConfig
from smartfast.core.draws import Purpose, are_vectors, draw_timesteps
from smartfast.engine.phase import PhaseResult
from smartfast.families.rounds import Round
from smartfast.kernels import philox_uniform
from smartfast.scorers import Scorer, TimestepRange
from smartfast.scorers.term import ScoreTerm

Redraw = Callable[[Round], tuple[Tensor, Tensor | None]]
"""Fakes of a generator pass of its own for a round, and their labels."""


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
        loss_scale: Of the phase that it joins.
    """

    def __init__(
        self, scorer: Scorer, timesteps: TimestepRange, smart: SmartConfig, *, seed: int, loss_scale: float = 1.0
    ) -> None:
        self.timesteps, self.smart, self.seed = timesteps, smart, seed
        self.term = ScoreTerm(
            scorer,
            weight=smart.weight,
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
        """
        chosen, places = self.choose(batch)
        t = draw_timesteps(self.seed, chosen.stream, self.timesteps.first, self.timesteps.last)
        if self.smart.separate_pass:
            fakes, labels = redraw(chosen)
        elif places is not None:
            fakes, labels = fakes[places], None if labels is None else labels[places]
        classes = None if are_vectors(labels) else labels
        distance = self.term(fakes, classes, t, chosen.stream).mean()
        return adversarial + self.term.weight * distance, statistics | {"loss/score": distance.detach()}
