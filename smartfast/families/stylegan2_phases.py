"""What each phase of StyleGAN2 training computes, with score-matching regularity (SMaRt) in g_main.

Every phase is a pure function of networks and a batch: it returns the loss to minimise and a dictionary
of detached statistics on the device. Nothing here draws random numbers, steps an optimizer or knows the
schedule.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.core.draws import Latents
from smartfast.families.adversarial import discriminator_loss, generator_loss, path_length_penalty, r1_penalty
from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.scorers.term import ScoreTerm

PhaseResult = tuple[Tensor, dict[str, Tensor]]


class ScoreBatch(NamedTuple):
    """What the score term consumes, for the K images that it scores.

    t: timesteps, int64 [K]. stream: the noise's streams, int64 [K]. latents: those of the K images when the term runs a
    generator pass of its own, None when it scores fakes of g_main: those at the places `chosen`, int64 [K], None = all.
    """

    t: Tensor
    stream: Tensor
    latents: Latents | None = None
    chosen: Tensor | None = None


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


def d_main(g: Generator, d: Discriminator, latents: Latents, reals: Tensor, real_c: Tensor | None) -> PhaseResult:
    """Logistic loss of the discriminator; reals [N, C, H, W], real_c label vectors [N, classes] or None."""
    with torch.no_grad():
        ws, _ = style_latents(g, latents)
        fakes = g.synthesis(ws, latents.noise)
    fake_logits, real_logits = d.compare(fakes, latents.c, reals, real_c)
    loss_fake, loss_real = discriminator_loss(fake_logits, real_logits)
    loss = loss_fake.mean() + loss_real.mean()
    return loss, {
        "loss/d_main": loss.detach(),
        "logits/fake": fake_logits.detach().mean(),
        "logits/real": real_logits.detach().mean(),
    }


def d_r1(d: Discriminator, reals: Tensor, real_c: Tensor | None, *, gamma: float) -> PhaseResult:
    """R1 regularization of the discriminator; reals [N, C, H, W] is a leaf that requires a gradient."""
    penalty = r1_penalty(d, reals, real_c).mean()
    return penalty * (gamma / 2), {"loss/r1": penalty.detach()}


def g_main(
    g: Generator,
    d: Discriminator,
    latents: Latents,
    score: ScoreBatch | None = None,
    *,
    score_term: ScoreTerm | None = None,
) -> PhaseResult:
    """Non-saturating logistic loss of the generator, plus lambda_score * L_score when `score` is given (SMaRt eq. 10).

    The score term acts on the same fakes, or some of them, so that one backward pass through the generator serves both,
    unless `score` brings latents of its own. It is the mean over the images it scores. `score_term` is needed where
    `score` is given.
    """
    ws, w_mean = style_latents(g, latents)
    fakes = g.synthesis(ws, latents.noise)
    logits = d(fakes, latents.c)
    adversarial = generator_loss(logits).mean()
    statistics = {"loss/g_main": adversarial.detach(), "w_mean": w_mean}
    if score is None or score_term is None:
        return adversarial, statistics
    labels = latents.labels
    if score.latents is not None:
        labels = score.latents.labels
        fakes = g.synthesis(style_latents(g, score.latents)[0], score.latents.noise)
    elif score.chosen is not None:
        fakes, labels = fakes[score.chosen], None if labels is None else labels[score.chosen]
    distance = score_term(fakes, labels, score.t, score.stream).mean()
    return adversarial + score_term.weight * distance, statistics | {"loss/score": distance.detach()}


def g_path(
    g: Generator,
    latents: Latents,
    pixel_noise: Tensor,
    path_mean: Tensor,
    *,
    weight: float,
    decay: float,
    mean_over_processes: Callable[[Tensor], Tensor],
) -> PhaseResult:
    """Path-length regularization of the generator; arguments as `path_length_penalty`."""
    ws, _ = style_latents(g, latents)
    penalty, new_mean = path_length_penalty(
        g, ws, latents.noise, pixel_noise, path_mean, decay=decay, mean_over_processes=mean_over_processes
    )
    penalty = penalty.mean()
    return penalty * weight, {"loss/path_length": penalty.detach(), "path_mean": new_mean.detach()}
