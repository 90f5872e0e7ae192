"""Losses and penalties of GANs, one value per sample, and what their phases cost."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.config.schema import SmartConfig
from smartfast.families.base import Cost


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


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Loss of logits that are to be above others, pair by pair (Jolicoeur-Martineau, arXiv 1807.00734), [N, 1].

    The discriminator's is that of (reals, fakes), the generator's that of (fakes, reals).
    """
    return F.softplus(worse - better)


def squared_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """|d logit / d image|^2 of each image, differentiable, [N]; logits [N, 1] each of its own image [N, C, H, W]."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])


def squared_difference(moved: Tensor, logits: Tensor, step: float) -> Tensor:
    """An estimate of `squared_gradient`, [N], from logits [N, 1] of images and of images + step * unit normal numbers.

    Along v ~ N(0, I) the mean of (v . gradient)^2 is |gradient|^2 (Hutchinson's estimator).
    """
    return ((moved - logits) / step).square()[:, 0]


def r1_penalty(d: Callable[[Tensor, Tensor | None], Tensor], reals: Tensor, c: Tensor | None) -> Tensor:
    """|d logit / d image|^2 (Mescheder et al., arXiv 1801.04406, eq. 9 without gamma/2), differentiable, [N].

    Args:
        d: The discriminator.
        reals: [N, C, H, W], a leaf that requires a gradient.
        c: Label vectors [N, classes], or None.
    """
    return squared_gradient(d(reals, c), reals)


def orthogonal_penalty(weight: Tensor, *, with_lengths: bool = False) -> Tensor:
    """How far the rows of a weight [O, ...] are from orthogonal, a scalar: half the squared products of all pairs.

    The first form is BigGAN's (Brock et al., arXiv 1809.11096, eq. 3) times 1/2, which its public code has.

    Args:
        with_lengths: Also how far their squared lengths are from 1 (Brock et al., arXiv 1609.07093).
    """
    rows = weight.flatten(1)
    products = rows @ rows.t()
    unit = torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
    off = products - unit if with_lengths else products * (1 - unit)
    return off.square().sum() / 2


def adversarial_costs(flops: dict[str, float], smart: SmartConfig, *, d_steps: int = 1) -> list[Cost]:
    """Cost of d_main, g_main and, where `flops` has a scorer, of the score term that joins g_main.

    Args:
        flops: Of a forward pass per image, by `g`, `d` and `scorer`.
        smart: Settings of the score term.
        d_steps: Discriminator steps per generator step.
    """
    g, d, share = flops["g"], flops["d"], 1 / d_steps
    costs = [Cost("d_main", g + 6 * d, 1), Cost("g_main", 3 * g + 2 * d, 1, share)]
    if "scorer" in flops:
        own_pass = 3 * g if smart.separate_pass else 0
        passes = 2 if smart.through_network else 1
        score = smart.batch_fraction * (passes * flops["scorer"] + own_pass)
        costs.append(Cost("score", score, smart.frequency, share))
    return costs
