"""What every frozen diffusion model answers: its noise schedule, and the noise it sees in an image.

An image x is noised as x_t = alpha_t x + sigma_t eps with alpha_t^2 + sigma_t^2 = 1. A network may have
been trained to predict eps, the clean image x0, or v = alpha_t eps - sigma_t x0 (Salimans and Ho,
"Progressive distillation", arXiv 2202.00512); `predict_eps` turns each of them into eps.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from smartfast.scorers.schedule import NoiseSchedule, Parameterization
from smartfast.scorers.settings import Setting

Distance = Literal["plain", "eps"]


class Scorer(nn.Module):
    """A frozen diffusion model of images [N, *image_shape] in [-1, 1].

    Args:
        schedule: alpha_t and sigma_t of every timestep.
        image_shape: Colour channels, height and width in pixels, the last two equal.
        num_classes: Number of classes that the model is conditioned on; 0 = none.
        null_class: Class index that stands for any class, for a model that has learned to do without; None = none.
        parameterization: What `network` predicts.
        dtype: Precision of `network`.

    Attributes:
        attention: What computes attention in `network` and why, for the log.
        class_names: What class 0, 1, ... is called, None where nobody says.
        settings: What its file was read with.
        schedules: Those that networks of this kind are trained with, by their names in `ScorerOptions` and from their
            number of timesteps; none where the network does not count them.
        times: What `network` tells a network that counts timesteps, by timestep, int64 [T]; None = the timestep.
        takes_no_class: Whether a model with classes is told none by the index after the last of them.
        states_resolution: Whether the model says which images it was trained on, or takes those that it is given.
        learnt_interval: The least and the most sigma_t / alpha_t that it was trained at, None = all of its schedule.
        fingerprint: Of its files, see `fingerprint_of`; the name of one that has none; None = nobody has said.
    """

    alphas: Tensor
    sigmas: Tensor
    times: Tensor | None
    settings: tuple[Setting, ...] = ()
    schedules: Mapping[str, Callable[[int], NoiseSchedule]] = {}
    takes_no_class: bool = False
    attention: str = "none (the model has no attention layers)"
    class_names: Sequence[str] | None = None
    states_resolution: bool = True
    learnt_interval: tuple[float, float] | None = None
    fingerprint: str | None = None

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        null_class: int | None = None,
        parameterization: Parameterization,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.schedule = schedule.name
        self.num_timesteps = schedule.alphas.numel()
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.null_class = null_class
        self.parameterization = parameterization
        self.dtype = dtype
        self.register_buffer("alphas", schedule.alphas.to(torch.float32), persistent=False)
        self.register_buffer("sigmas", schedule.sigmas.to(torch.float32), persistent=False)
        self.register_buffer("times", schedule.times, persistent=False)

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        return self.image_shape[1]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen network is never trained, also not by a parent's `train()`."""
        return super().train(False)

    def freeze(self) -> Self:
        """Evaluation mode, and no gradients for weights; subclasses call it when their weights are in place."""
        return self.eval().requires_grad_(False)

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the image at timesteps t, int64 [N] -> float32 [N]."""
        return self.alphas[t]

    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise at timesteps t, int64 [N] -> float32 [N]."""
        return self.sigmas[t]

    def told(self, t: Tensor) -> Tensor:
        """What a network that counts timesteps is told at timesteps t, int64 [N]."""
        return t if self.times is None else self.times[t]

    def distance_weight(self, t: Tensor, distance: Distance = "plain") -> Tensor:
        """Factor of the mean squared error of `network`'s prediction, of its own target, in the distance of SMaRt.

        plain is 1 for all: mean((eps_theta - eps)^2) as in SMaRt's eq. 10, mean((D - x)^2) as its authors do it with
        EDM's x0, and mean((v_theta - v)^2), which no paper has used here: each network at the loss of its training,
        without a weight. eps is the squared error in eps that the prediction amounts to: (alpha / sigma)^2 for x0,
        which is 1.7e4 to 7.7e4 at SMaRt's noise levels for EDM, and alpha^2 for v, where alpha^2 + sigma^2 = 1, which
        is nearly 1 at little noise.

        Args:
            t: Timesteps, int64 [N].

        Returns:
            float32 [N].
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        if distance == "plain" or self.parameterization == "eps":
            return torch.ones_like(alpha)
        return (alpha / sigma if self.parameterization == "x0" else alpha).square()

    def known_classes(self, labels: Tensor | None, t: Tensor) -> Tensor | None:
        """Class indices that the network is told, int64 [N]: `labels` or, without any, the null class of every image.

        None for a model without classes, whatever the labels.

        Raises:
            ValueError: No labels for a model that has classes and no null class.
        """
        if not self.num_classes:
            return None
        if labels is not None:
            return labels
        if self.null_class is None:
            raise ValueError(f"labels is None, expected class indices below {self.num_classes}: no null class is known")
        return torch.full_like(t, self.null_class)

    @abstractmethod
    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The network's own prediction (eps, x0 or v, see `parameterization`).

        Args:
            x_t: Noised images [N, C, H, W] of any float dtype.
            t: Timesteps, int64 [N].
            labels: Class indices, int64 [N], see `known_classes`; None = any class.

        Returns:
            [N, C, H, W] in `dtype`, differentiable with respect to `x_t`.
        """

    def predict_eps(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predicted noise; arguments as `network`.

        The conversions subtract nearly equal numbers where sigma_t is small, so they run in float32, and
        `x_t` should arrive in float32 unless the network predicts eps.

        Returns:
            float32 [N, C, H, W] (float64 if `x_t` or the prediction is float64).
        """
        prediction = _at_least_float32(self.network(x_t, t, labels))
        if self.parameterization == "eps":
            return prediction
        x_t = _at_least_float32(x_t)
        alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
        if self.parameterization == "x0":
            return (x_t - alpha * prediction) / sigma
        return alpha * prediction + sigma * x_t


@dataclass(frozen=True)
class ScorerFormat:
    """A kind of file or folder that a scorer is loaded from.

    recognises: Whether a path holds one of this kind; no more is read than that takes.
    load: Called as load(path, where=name for messages, settings=what the file is read with, device=, dtype=,
        attention=, null_class=, resolution=), the last five as `load_scorer` has them; returns the scorer, raises
        UserError.
    """

    recognises: Callable[[Path], bool]
    load: Callable[..., Scorer]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
