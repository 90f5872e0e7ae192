"""Consistency distillation: levels of noise, the scorer's step from one to the next, and the loss of a pair.

Song et al., arXiv 2303.01469, algorithm 2, with the metric, the weights and the choice of levels of Song and Dhariwal,
arXiv 2310.14189. Noise is told as sigma of x = image + sigma eps, whatever the scorer's own form: x_t = alpha_t x with
sigma = sigma_t / alpha_t.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.config.small_families import ConsistencyLoss
from smartfast.errors import UserError
from smartfast.scorers import Scorer

RHO = 7.0
"""Of the levels (Karras et al., arXiv 2206.00364, eq. 5)."""
_HUBER = 0.00054  # c over the root of an image's values (Song and Dhariwal, section 3.3)


class Levels(NamedTuple):
    """Noise in ascending order.

    sigma: float32 [N + 1]. t: The scorer's timestep of each, int64 [N + 1]; that of the first, which the scorer is
    never asked at, is 0. share: Cumulative chance of each piece between two levels, float32 [N], which ends at 1.
    """

    sigma: Tensor
    t: Tensor
    share: Tensor

    def drawn(self, uniform: Tensor) -> Tensor:
        """The piece that each number in [0, 1), float [N], stands for, int64 [N]."""
        return torch.searchsorted(self.share, uniform.contiguous(), right=True).clamp(max=len(self.share) - 1)


def noise_levels(loss: ConsistencyLoss, scorer: Scorer | None, device: torch.device) -> Levels:
    """The levels that the settings ask for, each but the first at the nearest of the scorer's; two at one are one.

    Args:
        scorer: None where a run is only described: nothing is moved.

    Raises:
        UserError: The scorer knows no noise up to loss.sigma_max, or none above loss.sigma_min.
    """
    low, high = loss.sigma_min ** (1 / RHO), loss.sigma_max ** (1 / RHO)
    wanted = torch.linspace(low, high, loss.intervals + 1, dtype=torch.float64) ** RHO
    if scorer is None:
        t, sigma = torch.zeros(len(wanted), dtype=torch.int64), wanted
    else:
        known = (scorer.sigmas.double() / scorer.alphas.double()).cpu()
        if known[-1] < 0.9 * loss.sigma_max or known[-1] <= loss.sigma_min:
            raise UserError(
                f"loss.sigma_max is {loss.sigma_max:g}, expected at most the {known[-1]:.3g} up to which smart.scorer "
                "knows noise"
            )
        above = (known > loss.sigma_min) & known.isfinite()
        distance = (known.log() - wanted[1:, None].log()).abs().masked_fill(~above, float("inf"))
        upper = distance.argmin(dim=1).unique()
        t, sigma = torch.cat([upper.new_zeros(1), upper]), torch.cat([wanted[:1], known[upper]])
    share = torch.special.ndtr((sigma.log() - loss.ln_sigma_mean) / loss.ln_sigma_std).diff()
    share = (share / share.sum()).cumsum(dim=0)
    return Levels(sigma.float().to(device), t.to(device), share.float().to(device))


class Teacher:
    """The scorer's step down the probability flow from the upper level of a piece to its lower one.

    Args:
        scorer: Frozen.
        levels: Of noise.
        heun: A second pass at the lower level, but for the lowest one (EDM, algorithm 1).
    """

    def __init__(self, scorer: Scorer, levels: Levels, *, heun: bool) -> None:
        self.scorer, self.levels, self.heun = scorer, levels, heun

    @torch.no_grad()
    def step(self, x: Tensor, piece: Tensor, labels: Tensor | None) -> Tensor:
        """x = image + sigma eps, float [N, C, H, W], at the upper level of pieces int64 [N], taken to the lower one."""
        down = (self.levels.sigma[piece] - self.levels.sigma[piece + 1])[:, None, None, None]
        slope = self._eps(x, piece + 1, labels)
        euler = x + down * slope
        if not self.heun:
            return euler
        second = x + down * (slope + self._eps(euler, piece, labels)) / 2
        return torch.where((piece > 0)[:, None, None, None], second, euler)

    def _eps(self, x: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        """dx / dsigma of the flow, which is the noise that the scorer sees."""
        t = self.levels.t[level]
        return self.scorer.predict_eps(self.scorer.alpha(t)[:, None, None, None] * x, t, labels)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(|a - b|^2 + c^2) - c of images [N, C, H, W], [N], with c = 0.00054 sqrt(C H W)."""
    c = _HUBER * math.sqrt(a[0].numel())
    return ((a - b).square().sum(dim=(1, 2, 3)) + c**2).sqrt() - c
