"""The loss of a scorer by noise level: where it knows the data well, and so where its gradient is worth using."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.scorers.base import Scorer
from smartfast.scorers.term import score_loss

BANDS = ((0, 9), (10, 24), (25, 49), (50, 99), (100, 199), (200, 399), (400, 699), (700, 999))


@torch.no_grad()
def eps_loss_by_band(
    scorer: Scorer,
    images: Tensor,
    labels: Tensor | None,
    *,
    bands: Sequence[tuple[int, int]] = BANDS,
    seed: int = 0,
    batch: int = 128,
) -> dict[str, float]:
    """Mean of (eps_theta - eps)^2 per band of timesteps, with one timestep and one noise per image and band.

    A network that predicts x0 or v is measured in eps too, so that the bands of any two networks compare.

    Args:
        scorer: The scorer.
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N] or None.
        bands: First and last timestep (both included) of each band; those beyond the schedule are left out.
        seed: Key of the random numbers.
        batch: Images at a time.

    Returns:
        Loss by "first-last".
    """
    losses = {}
    stream = torch.arange(len(images), device=images.device)
    for first, last in bands:
        if last >= scorer.num_timesteps:
            continue
        total = 0.0
        for part in stream.split(batch):
            t = draw_timesteps(seed, part, first, last)
            chosen = None if labels is None else labels[part]
            noise = {"seed": seed, "stream": part, "purpose": Purpose.SCORE_NOISE}
            total += float(score_loss(scorer, images[part], chosen, t, **noise, distance="eps").sum())
        losses[f"{first}-{last}"] = total / len(images)
    return losses
