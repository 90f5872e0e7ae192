"""A scorer known in closed form: a mixture of isotropic Gaussians in image space. For tests and toy data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smartfast.scorers.base import Scorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization


class GaussianMixtureScorer(Scorer):
    """The exact predictions for images drawn from sum_k w_k N(mean_k, std_k^2 I).

    At timestep t component k has mean alpha_t mean_k and variance alpha_t^2 std_k^2 + sigma_t^2; the optimal eps
    is -sigma_t times the gradient of the log density of the mixture of those.

    Args:
        schedule: alpha_t and sigma_t of every timestep.
        means: [K, C, H, W].
        stds: [K].
        weights: [K], positive, of any sum; None = equal.
        classes: Class of each component; labels then select the components of their class. None = no classes.
        parameterization: What `network` returns.
        dtype: Precision of the computation.
    """

    means: Tensor
    stds: Tensor
    log_weights: Tensor
    classes: Tensor

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Tensor,
        stds: Tensor,
        *,
        weights: Tensor | None = None,
        classes: Sequence[int] | None = None,
        parameterization: Parameterization = "eps",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            schedule,
            resolution=means.shape[-1],
            channels=means.shape[1],
            num_classes=max(classes) + 1 if classes else 0,
            parameterization=parameterization,
            dtype=dtype,
        )
        weights = torch.ones(len(means)) if weights is None else weights
        self.register_buffer("means", means.to(dtype))
        self.register_buffer("stds", stds.to(dtype))
        self.register_buffer("log_weights", weights.to(dtype).log())
        self.register_buffer("classes", torch.tensor(classes or [0] * len(means)))
        self.freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        x_t = x_t.to(self.dtype)
        alpha = self.alpha(t).to(self.dtype)[:, None]
        sigma = self.sigma(t).to(self.dtype)[:, None]
        variance = (alpha * self.stds).square() + sigma.square()
        offset = x_t[:, None] - alpha[:, :, None, None, None] * self.means
        log_density = self.log_weights - self.means[0].numel() / 2 * variance.log()
        log_density = log_density - offset.square().sum(dim=(2, 3, 4)) / (2 * variance)
        if self.num_classes and labels is not None:
            log_density = log_density.masked_fill(self.classes != labels[:, None], float("-inf"))
        share = log_density.softmax(dim=1)

        def weigh(factor: Tensor) -> Tensor:
            return ((share * factor)[:, :, None, None, None] * offset).sum(dim=1)

        if self.parameterization == "eps":
            return weigh(sigma / variance)
        x0 = torch.einsum("nk,kchw->nchw", share, self.means) + weigh(alpha * self.stds.square() / variance)
        if self.parameterization == "x0":
            return x0
        return alpha[:, :, None, None] * weigh(sigma / variance) - sigma[:, :, None, None] * x0
