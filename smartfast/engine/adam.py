"""Adam on flat parameters: PyTorch's fused one, or one whose betas are scalars on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartfast.config.schedule import Quantity, Schedule, value_at
from smartfast.engine.flat import aligned_zeros
from smartfast.engine.schedules import DeviceScalars


@dataclass(frozen=True)
class AdamSettings:
    """How a network is optimized.

    lr: Of Adam (Kingma and Ba, arXiv 1412.6980), by images seen. betas: Numbers or schedules. lazy_interval: Steps
    between two runs of the network's lazy regularization, None = it has none; learning rate and betas are corrected by
    interval / (interval + 1) as in StyleGAN2 (appendix B). clip_norm: Largest norm of the gradient, None = any.
    groups: Learning-rate factors of the parameters whose names begin with a prefix.
    """

    lr: Callable[[int], float]
    betas: tuple[Quantity, Quantity]
    eps: float = 1e-8
    lazy_interval: int | None = None
    clip_norm: float | None = None
    groups: tuple[tuple[str, float], ...] = ()

    @property
    def ratio(self) -> float:
        """The lazy correction of the learning rate, and the exponent of that of the betas."""
        return 1.0 if self.lazy_interval is None else self.lazy_interval / (self.lazy_interval + 1)

    def lr_at(self, factor: float) -> Callable[[int], float]:
        """The corrected learning rate of a group by images seen."""
        return lambda images: self.lr(images) * self.ratio * factor

    def beta_at(self, index: int) -> Callable[[int], float]:
        """A corrected beta by images seen."""
        return lambda images: value_at(self.betas[index], images) ** self.ratio


class Adam:
    """Adam over slices of one flat tensor, which leaves everything as it is where a step is bad.

    Args:
        weights, gradient: Flat, float32, of the same size.
        slices: Of both, one per learning-rate group.
        factors: Of the learning rate, one per group.
        settings: Learning rate, betas and epsilon.
        scalars: Makes learning rates, and betas where they are scheduled, follow the images seen.
    """

    def __init__(
        self,
        weights: Tensor,
        gradient: Tensor,
        slices: Sequence[slice],
        factors: Sequence[float],
        settings: AdamSettings,
        scalars: DeviceScalars,
    ) -> None:
        self.exp_avg, self.exp_avg_sq = (aligned_zeros(weights.numel(), weights.device) for _ in range(2))
        # A captured graph reads a learning rate in float32 on the device; on the CPU fused Adam reads any number.
        dtype = torch.float32 if weights.is_cuda else torch.float64
        self._lrs = [scalars.add(settings.lr_at(factor), dtype) for factor in factors]
        self.found_inf = torch.zeros([], device=weights.device)
        pieces = [nn.Parameter(weights[part]) for part in slices]
        for piece, part in zip(pieces, slices, strict=True):
            piece.grad = gradient[part]
        self.steps = [torch.zeros([], device=weights.device) for _ in slices]
        self._pieces, self._slices, self._eps = pieces, slices, settings.eps
        self._betas: tuple[Tensor, Tensor] | None = None
        if any(isinstance(beta, Schedule) for beta in settings.betas):
            self._betas = (scalars.add(settings.beta_at(0)), scalars.add(settings.beta_at(1)))
        else:
            self._fused = self._fused_adam(settings)

    def _fused_adam(self, settings: AdamSettings) -> torch.optim.Adam:
        fused = torch.optim.Adam(
            [{"params": [piece], "lr": lr} for piece, lr in zip(self._pieces, self._lrs, strict=True)],
            betas=(settings.beta_at(0)(0), settings.beta_at(1)(0)),
            eps=settings.eps,
            fused=True,
            capturable=self.found_inf.is_cuda,
        )
        # It skips the step on the device where found_inf is 1; the attributes are those that GradScaler sets.
        fused.grad_scale = None  # type: ignore[attr-defined]
        fused.found_inf = self.found_inf  # type: ignore[attr-defined]
        for piece, part, step in zip(self._pieces, self._slices, self.steps, strict=True):
            moments = {"exp_avg": self.exp_avg[part], "exp_avg_sq": self.exp_avg_sq[part]}
            fused.state[piece] = {"step": step, **moments}
        return fused

    def step(self, bad: Tensor) -> None:
        """One step, or none where `bad`, float32 [], is 1."""
        self.found_inf.copy_(bad)
        if self._betas is None:
            self._fused.step()
            return
        for piece, part, count, lr in zip(self._pieces, self._slices, self.steps, self._lrs, strict=True):
            self._scheduled_step(piece, part, count, lr, 1 - bad)

    @torch.no_grad()
    def _scheduled_step(self, weights: nn.Parameter, part: slice, count: Tensor, lr: Tensor, good: Tensor) -> None:
        assert self._betas is not None and weights.grad is not None
        beta1, beta2 = self._betas
        gradient = torch.where(good > 0, weights.grad, 0.0)
        count += good
        exp_avg, exp_avg_sq = self.exp_avg[part], self.exp_avg_sq[part]
        exp_avg.lerp_(gradient, good * (1 - beta1))
        exp_avg_sq.lerp_(gradient.square(), good * (1 - beta2))
        denominator = (exp_avg_sq / (1 - beta2**count)).sqrt() + self._eps
        weights.sub_(torch.where(good > 0, (lr / (1 - beta1**count)).float() * (exp_avg / denominator), 0.0))
