"""What is trained: a network, the noise that it learns to take out of images, and the form that it is left in."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smartfast.config.families import DenoiserLoss
from smartfast.core.draws import Purpose
from smartfast.kernels import philox_normal
from smartfast.scorers import Scorer


class Noised(NamedTuple):
    """What a network is trained on.

    x_t: Images with noise [N, C, H, W]. level: What the network is told of the noise [N]. target: What it is to
    predict [N, C, H, W]. weight: Of the squared error, a number or [N, 1, 1, 1].
    """

    x_t: Tensor
    level: Tensor
    target: Tensor
    weight: Tensor | float


class Denoiser(nn.Module, ABC):
    """A network that learns to take noise out of images.

    Args:
        unet: The network.
        image_shape: Channels, height, width.
        num_classes: 0 = unconditional.
        sample_steps: Of a sample.

    Attributes:
        level_dtype: Of the noise levels that the network is told.
    """

    level_dtype: torch.dtype

    def __init__(
        self, unet: nn.Module, *, image_shape: tuple[int, int, int], num_classes: int, sample_steps: int
    ) -> None:
        super().__init__()
        self.unet, self.image_shape, self.num_classes = unet, image_shape, num_classes
        self.sample_steps = sample_steps

    @abstractmethod
    def forward(self, x_t: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        """The prediction [N, C, H, W] for noised images [N, C, H, W], noise levels [N] and classes int64 [N]."""

    @abstractmethod
    def noised(self, images: Tensor, stream: Tensor, *, seed: int, settings: DenoiserLoss) -> Noised:
        """Images [N, C, H, W] with one random level of noise each, which seed and image numbers int64 [N] decide."""

    @abstractmethod
    def samples(self, labels: Tensor | None, noise: Tensor) -> Tensor:
        """Deterministic samples, float32 [N, C, H, W] in about [-1, 1].

        Args:
            labels: int64 [N] or None.
            noise: float32 [N, C, H, W], unit normal: where the samples start.
        """

    @abstractmethod
    def scorer(self, device: torch.device) -> Scorer:
        """A frozen copy."""

    @abstractmethod
    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write a folder that smart.scorer takes, with weights in `dtype`; each of its files appears whole."""


def per_image(values: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]


def unit_noise(images: Tensor, stream: Tensor, seed: int) -> Tensor:
    """Noise for images [N, C, H, W] with the numbers int64 [N]."""
    return philox_normal(seed, stream, images[0].numel(), int(Purpose.SCORE_NOISE)).view(images.shape)
