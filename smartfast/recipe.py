"""What each phase draws and computes for one round of images; pure functions of the round and the networks' state.

Everything random is drawn in here from the numbers of the images, so that a compiled phase or a captured CUDA graph
holds its own random numbers and draws new ones for new images.
"""

import math
from typing import NamedTuple

from torch import Tensor

from smartfast import phases
from smartfast.config import Config
from smartfast.distributed import mean_over_processes
from smartfast.draws import Latents, LatentSampler, Purpose, draw_timesteps, one_hot
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.losses.score import ScoreTerm
from smartfast.models import Discriminator, Generator
from smartfast.phases import PhaseResult, ScoreBatch
from smartfast.scorers import TimestepRange


class Round(NamedTuple):
    """The images of one round of gradient accumulation in one process.

    stream: their numbers int64 [N]; images float32 [N, C, H, W] in [-1, 1]; labels int64 [N] or None.
    """

    stream: Tensor
    images: Tensor
    labels: Tensor | None

    def at(self, index: Tensor) -> "Round":
        """The images at these places, int64 [K]."""
        return Round(self.stream[index], self.images[index], None if self.labels is None else self.labels[index])

    def first(self, count: int) -> "Round":
        """The first `count` images."""
        return Round(self.stream[:count], self.images[:count], None if self.labels is None else self.labels[:count])


class Recipe:
    """The phases of one run.

    Args:
        config: Checked configuration.
        g, d: The trained networks.
        latents: Draws what the generator consumes.
        path_mean: Running mean of the path lengths, a scalar that the run updates in place.
        score_term: Score-matching regularity and its timesteps, None = off.
        num_processes: Processes that share a batch.
    """

    def __init__(
        self,
        config: Config,
        g: Generator,
        d: Discriminator,
        latents: LatentSampler,
        path_mean: Tensor,
        score_term: tuple[ScoreTerm, TimestepRange] | None,
        num_processes: int,
    ) -> None:
        self.config, self.g, self.d, self.latents, self.path_mean = config, g, d, latents, path_mean
        self.score_term: ScoreTerm | None = None
        if score_term is not None:  # without it g_score, which alone reads the timesteps, does not run
            self.score_term, self.timesteps = score_term
        self.num_processes = num_processes

    def g_main(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator."""
        return phases.g_main(self.g, self.d, self._latents(Purpose.G_MAIN, batch))

    def g_score(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator and the scorer."""
        latents, score = self._latents(Purpose.G_MAIN, batch), self._score_batch(batch)
        return phases.g_main(self.g, self.d, latents, score, score_term=self.score_term)

    def g_path(self, batch: Round) -> PhaseResult:
        """Path-length regularization on a part of the round."""
        loss, (_, channels, height, width) = self.config.loss, batch.images.shape
        part = batch.first(max(len(batch.stream) // loss.path_length_shrink, 1))
        pixels = philox_normal(self.config.run.seed, part.stream, channels * height * width, int(Purpose.PATH_PIXELS))
        return phases.g_path(
            self.g,
            self._latents(Purpose.G_PATH, part),
            pixels.view(-1, channels, height, width),
            self.path_mean,
            weight=loss.path_length_weight,
            decay=loss.path_length_decay,
            mean_over_processes=self._mean_over_processes,
        )

    def d_main(self, batch: Round) -> PhaseResult:
        """The discriminator on fakes and reals."""
        return phases.d_main(self.g, self.d, self._latents(Purpose.D_MAIN, batch), batch.images, self._c(batch))

    def d_r1(self, batch: Round) -> PhaseResult:
        """R1 regularization on the reals; `batch.images` must be a leaf that requires a gradient."""
        return phases.d_r1(self.d, batch.images, self._c(batch), gamma=self.config.loss.r1_gamma)

    def _c(self, batch: Round) -> Tensor | None:
        return one_hot(batch.labels, self.g.c_dim)

    def _latents(self, purpose: Purpose, batch: Round) -> Latents:
        return self.latents(purpose, batch.stream, batch.labels if self.config.gan.mbstd_by_class else None)

    def _score_batch(self, batch: Round) -> ScoreBatch:
        smart = self.config.smart
        chosen = None
        if smart.batch_fraction < 1:
            # By lot: the first images of a round are those of the first classes where gan.mbstd_by_class orders them.
            lots = philox_uniform(self.config.run.seed, batch.stream, 1, int(Purpose.SCORE_PART))[:, 0]
            chosen = lots.argsort()[: math.ceil(smart.batch_fraction * len(lots))]
            batch = batch.at(chosen)
        t = draw_timesteps(self.config.run.seed, batch.stream, self.timesteps.first, self.timesteps.last)
        latents = self._latents(Purpose.G_SCORE, batch) if smart.separate_pass else None
        return ScoreBatch(t, batch.stream, latents, chosen)

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        return mean_over_processes(value) if self.num_processes > 1 else value
