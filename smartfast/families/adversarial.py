"""StyleGAN2's losses and penalties, one value per sample."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.networks.stylegan2 import Discriminator, Generator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al., arXiv 1406.2661), [N, 1] -> [N, 1]."""
    return F.softplus(-fake_logits)


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic loss on fakes and on reals, each [N, 1] -> [N, 1]."""
    return F.softplus(fake_logits), F.softplus(-real_logits)


def r1_penalty(d: Discriminator, reals: Tensor, c: Tensor | None) -> Tensor:
    """|d logit / d image|^2 (Mescheder et al., arXiv 1801.04406, eq. 9 without gamma/2), differentiable, [N].

    Args:
        reals: [N, C, H, W], a leaf that requires a gradient.
        c: Label vectors [N, classes], or None.
    """
    (gradient,) = torch.autograd.grad(d(reals, c).sum(), reals, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])


def path_length_penalty(
    g: Generator,
    ws: Tensor,
    noise,
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
