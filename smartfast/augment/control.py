"""The probability of an augmentation, a tensor on the device that moves with how certain the discriminator is."""

from collections.abc import Callable

import torch
from torch import Tensor


def new_probability(p: float) -> dict[str, Tensor]:
    """What has to last between iterations, by name: p, and the open window of sign averages (sum, number)."""
    return {"augment_p": torch.tensor(p), "augment_window": torch.zeros(2)}


def controller(
    p: Tensor, window: Tensor, *, target: float, step: float, interval: int, max_p: float
) -> Callable[[Tensor, Tensor], None]:
    """What moves p after each step of the discriminator (Karras et al., arXiv 2006.06676, section 3.1).

    After every `interval` steps p moves by `step` in the direction of r - target, where r is the mean of sign(D(real))
    over those steps, within [0, max_p]. Nothing is read from the device.

    Returns:
        A function of the mean sign of a step [1], and of a scalar that is 1.0 if the step was skipped, else 0.0.
    """

    def commit(sign: Tensor, bad: Tensor) -> None:
        skipped = bad > 0
        filled = torch.where(skipped, window, window + torch.cat([sign, torch.ones_like(sign)]))
        is_full = filled[1] >= interval
        direction = torch.sign(filled[0] / filled[1].clamp_min(1) - target)
        p.copy_(torch.where(is_full, (p + direction * step).clamp(0, max_p), p))
        window.copy_(torch.where(is_full, torch.zeros_like(window), filled))

    return commit
