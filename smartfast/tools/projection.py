"""The styles of an image: those whose image is nearest to it (Karras et al., arXiv 1912.04958, appendix D)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smartfast.core.draws import Purpose
from smartfast.families.sampling import PLAIN, Look, Sampler, label_vectors, usual_labels
from smartfast.kernels import philox_normal
from smartfast.tools.perceptual import Distance

RISE, FALL = 0.05, 0.25
"""Shares of the steps in which the learning rate rises from 0 and falls to it."""
NOISE_SHARE = 0.75
"""Share of the steps in which the styles are noisy."""
_BATCH = 256


class StyleStatistics(NamedTuple):
    """mean: Of styles, [L, F]. spread: Root of their mean squared distance from it, a layer's, scalar."""

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Search:
    """How styles are searched.

    space: w gives all layers one style, w+ each its own. lr: Adam's, at its highest. noise: Standard deviation of the
    noise on the styles at the first step, over their spread. seed: Of that noise.
    """

    space: Literal["w", "w+"] = "w"
    steps: int = 1000
    lr: float = 0.1
    noise: float = 0.05
    seed: int = 0


class Step(NamedTuple):
    """number: From 0. distances: By name, of this step's image, and `total`. image: float [1, C, H, W]."""

    number: int
    distances: dict[str, float]
    image: Tensor


@torch.no_grad()
def style_statistics(sampler: Sampler, label: Tensor | None, count: int, seed: int) -> StyleStatistics:
    """Of the styles of `count` random latents.

    Args:
        sampler: Of a network with styles.
        label: Of all of them, one class int64 [1] or vector [1, F]; None = each its own, where there are labels.
        seed: Of the latents.

    Raises:
        UserError: The network has no style layers.
    """
    found = []
    for numbers in torch.arange(count).split(_BATCH):
        z = philox_normal(seed, numbers.to(sampler.device), math.prod(sampler.z_shape), int(Purpose.SAMPLE))
        labels = usual_labels(sampler, numbers) if label is None else label.expand(len(numbers), *label.shape[1:])
        c = label_vectors(labels, sampler.num_classes, sampler.device)
        found.append(sampler.styles(z.view(-1, *sampler.z_shape), c, PLAIN))
    styles = torch.cat(found)
    mean = styles.mean(dim=0)
    return StyleStatistics(mean, (styles - mean).square().sum(dim=2).mean().sqrt())


def learning_rate(search: Search, step: int) -> float:
    """That of a step: it rises like a line and falls like a cosine."""
    time = step / search.steps
    fall = min(1.0, (1 - time) / FALL)
    return search.lr * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, time / RISE)


def noise_level(search: Search, step: int) -> float:
    """Standard deviation of the noise on the styles at a step, over their spread."""
    return search.noise * max(0.0, 1 - step / search.steps / NOISE_SHARE) ** 2


def search_styles(
    sampler: Sampler,
    target: Tensor,
    statistics: StyleStatistics,
    distances: Mapping[str, Distance],
    search: Search,
    watch: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Styles [1, L, F] whose image is near to `target`, starting from the mean.

    Args:
        sampler: Of a network with styles.
        target: float [1, C, H, W] in [-1, 1].
        statistics: Of its styles.
        distances: By name; their sum is made small.
        search: How.
        watch: Called after each step.
    """
    layers = len(statistics.mean)
    start = statistics.mean.mean(dim=0, keepdim=True) if search.space == "w" else statistics.mean
    styles = start[None].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([styles], lr=search.lr, betas=(0.9, 0.999))
    look = Look(noise="const")
    for step in range(search.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(search, step)
        number = torch.tensor([step], device=styles.device)
        noise = philox_normal(search.seed, number, styles.numel(), int(Purpose.PROJECTION)).view_as(styles)
        noisy = styles + noise * (noise_level(search, step) * statistics.spread)
        image = sampler.styled(noisy.expand(-1, layers, -1), look)
        parts = {name: distance(image, target).sum() for name, distance in distances.items()}
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values = {name: value.item() for name, value in parts.items()}
        watch(Step(step, {**values, "total": total.item()}, image.detach()))
    return styles.detach().expand(-1, layers, -1).contiguous()
