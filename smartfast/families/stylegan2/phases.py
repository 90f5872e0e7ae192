"""What each phase of StyleGAN2 draws and computes for one round of images.

Pure functions of the round and the networks' state: everything random is drawn in here from the numbers of the images,
so that a compiled phase or a captured CUDA graph holds its own random numbers and draws new ones for new images.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from smartfast.config.families import StyleGan2Loss
from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.phase import PhaseResult
from smartfast.families.adversarial import generator_loss
from smartfast.families.augmented import AugmentedView
from smartfast.families.logistic import logistic_step, r1_step
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity
from smartfast.families.stylegan2.latents import Latents, LatentSampler
from smartfast.kernels import philox_normal
from smartfast.networks.stylegan2 import Discriminator, Generator


def style_latents(g: Generator, latents: Latents) -> tuple[Tensor, Tensor]:
    """Latents of the layers [N, num_ws, w_dim] after style mixing, and the batch mean of w [w_dim], detached."""
    w = g.mapping.map(latents.z, latents.c)
    ws = g.mapping.broadcast(w)
    if latents.z_mix is not None:
        assert latents.cutoff is not None
        ws_mix = g.mapping.broadcast(g.mapping.map(latents.z_mix, latents.c))
        layer = torch.arange(g.num_ws, device=w.device)
        ws = torch.where((layer < latents.cutoff)[:, :, None], ws, ws_mix)
    return ws, w.detach().mean(dim=0)


def path_length_penalty(
    g: Generator,
    ws: Tensor,
    noise: Any,
    pixel_noise: Tensor,
    path_mean: Tensor,
    *,
    decay: float,
    mean_over_processes: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Path-length penalty (StyleGAN2, arXiv 1912.04958, section 3.2), differentiable.

    Args:
        ws: Latents of the layers [N, num_ws, w_dim], part of an autograd graph.
        noise: As `Synthesis.forward` takes it.
        pixel_noise: Unit normal [N, C, H, W].
        path_mean: Running mean of the path lengths before this step, scalar.
        decay: Step of the running mean; the penalty is taken around the mean after the step.
        mean_over_processes: Differentiable mean of a scalar over the processes.

    Returns:
        The penalty [N] and the running mean after the step.
    """
    images = g.synthesis(ws, noise)
    projection = (images * pixel_noise).sum() / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad(projection, ws, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    new_mean = path_mean.lerp(mean_over_processes(lengths.mean()), decay)
    return (lengths - new_mean).square(), new_mean


class StyleGan2Phases:
    """The phases of one run.

    Args:
        g, d: The trained networks.
        latents: Draws what the generator consumes.
        loss: The objective.
        seed: Of the run.
        labels_of_reals: Fakes take the labels of the reals.
        r1_gamma, path_mean: Scalars on the device that the run moves.
        view: Images as the discriminator sees them.
        score: Score-matching regularity, None = off.
        mean_over_processes: Differentiable mean of a scalar.
    """

    def __init__(
        self,
        g: Generator,
        d: Discriminator,
        latents: LatentSampler,
        loss: StyleGan2Loss,
        *,
        seed: int,
        labels_of_reals: bool,
        r1_gamma: Tensor,
        path_mean: Tensor,
        view: AugmentedView,
        score: ScoreRegularity | None,
        mean_over_processes: Callable[[Tensor], Tensor],
    ) -> None:
        self.g, self.d, self.latents, self.loss, self.seed = g, d, latents, loss, seed
        self.labels_of_reals, self.r1_gamma, self.path_mean = labels_of_reals, r1_gamma, path_mean
        self.view, self.score, self.mean_over_processes = view, score, mean_over_processes

    def g_main(self, batch: Round) -> PhaseResult:
        """Non-saturating logistic loss of the generator."""
        loss, statistics, _, _ = self._adversarial(batch)
        return loss, statistics

    def g_score(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator and the scorer (SMaRt eq. 10), on the same fakes."""
        assert self.score is not None, "g_score runs only where there is a score term"
        loss, statistics, fakes, latents = self._adversarial(batch)
        return self.score.join(loss, statistics, fakes, latents.labels, batch, self._redraw)

    def g_path(self, batch: Round) -> PhaseResult:
        """Path-length regularization of the generator on a part of the round."""
        loss, (_, channels, height, width) = self.loss, batch.images.shape
        part = batch.first(max(len(batch.stream) // loss.path_length_shrink, 1))
        pixels = philox_normal(self.seed, part.stream, channels * height * width, int(Purpose.PATH_PIXELS))
        latents = self._latents(Purpose.G_PATH, part)
        penalty, new_mean = path_length_penalty(
            self.g,
            style_latents(self.g, latents)[0],
            latents.noise,
            pixels.view(-1, channels, height, width),
            self.path_mean,
            decay=loss.path_length_decay,
            mean_over_processes=self.mean_over_processes,
        )
        penalty = penalty.mean()
        statistics = {"loss/path_length": penalty.detach(), "path_mean": new_mean.detach()}
        return penalty * loss.path_length_weight, statistics

    def d_main(self, batch: Round) -> PhaseResult:
        """Logistic loss of the discriminator on fakes and reals."""
        latents = self._latents(Purpose.D_MAIN, batch)
        with torch.no_grad():
            ws, _ = style_latents(self.g, latents)
            fakes = self.g.synthesis(ws, latents.noise)
        return logistic_step(self.d, self.view, batch, fakes, latents.labels, classes=self.g.c_dim)

    def d_r1(self, batch: Round) -> PhaseResult:
        """R1 regularization of the discriminator on the reals, whose gradient passes through their augmentation."""
        return r1_step(self.d, self.view, batch, self._c(batch), self.r1_gamma)

    def _adversarial(self, batch: Round) -> tuple[Tensor, dict[str, Tensor], Tensor, Latents]:
        """Loss, statistics, fakes and their latents."""
        latents = self._latents(Purpose.G_MAIN, batch)
        ws, w_mean = style_latents(self.g, latents)
        fakes = self.g.synthesis(ws, latents.noise)
        seen = self.view(fakes, batch.stream, Purpose.AUGMENT_G)
        loss = generator_loss(self.d(seen, latents.c)).mean()
        return loss, {"loss/g_main": loss.detach(), "w_mean": w_mean}, fakes, latents

    def _redraw(self, batch: Round) -> tuple[Tensor, Tensor | None]:
        latents = self._latents(Purpose.G_SCORE, batch)
        return self.g.synthesis(style_latents(self.g, latents)[0], latents.noise), latents.labels

    def _c(self, batch: Round) -> Tensor | None:
        return one_hot(batch.labels, self.g.c_dim)

    def _latents(self, purpose: Purpose, batch: Round) -> Latents:
        return self.latents(purpose, batch.stream, batch.labels if self.labels_of_reals else None)
