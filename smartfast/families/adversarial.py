"""Losses and penalties of GANs, one value per sample."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al., arXiv 1406.2661), [N, 1] -> [N, 1]."""
    return F.softplus(-fake_logits)


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic loss on fakes and on reals, each [N, 1] -> [N, 1]."""
    return F.softplus(fake_logits), F.softplus(-real_logits)


def hinge_loss(fake_logits: Tensor, real_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's hinge loss (Lim and Ye, arXiv 1705.02894) on fakes and on reals, each [N, 1] -> [N, 1].

    The generator's is `-fake_logits`.
    """
    return F.relu(1 + fake_logits), F.relu(1 - real_logits)


def r1_penalty(d: Callable[[Tensor, Tensor | None], Tensor], reals: Tensor, c: Tensor | None) -> Tensor:
    """|d logit / d image|^2 (Mescheder et al., arXiv 1801.04406, eq. 9 without gamma/2), differentiable, [N].

    Args:
        d: The discriminator.
        reals: [N, C, H, W], a leaf that requires a gradient.
        c: Label vectors [N, classes], or None.
    """
    (gradient,) = torch.autograd.grad(d(reals, c).sum(), reals, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])
