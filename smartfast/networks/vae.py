"""A small convolutional variational autoencoder (Kingma and Welling, arXiv 1312.6114)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUP = 8
_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE = -20.0, 10.0


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    groups = max(outputs // _GROUP, 1)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(groups, outputs), nn.SiLU())


class Autoencoder(nn.Module):
    """Encoder and decoder between images of a power of two from 8 pixels on and latents.

    Args:
        resolution, channels: Of the images.
        classes: Length of a label vector, 0 = without.
        z_dim: Dimension of a latent.
        width: Feature maps at half the resolution, a multiple of 8; twice as many at each halving down to 4 pixels.
    """

    def __init__(self, resolution: int, channels: int, classes: int, z_dim: int, width: int) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes, self.z_dim = resolution, channels, classes, z_dim
        widths = [width << level for level in range(round(math.log2(resolution / 4)))]
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in zip([channels, *widths], widths, strict=False))
        self.latent = nn.Linear(16 * widths[-1] + classes, 2 * z_dim)
        self.start = nn.Linear(z_dim + classes, 16 * widths[-1])
        self.up = nn.ModuleList(_block(b, a, 1) for a, b in zip([width, *widths], widths, strict=False))
        self.last = nn.Conv2d(width, channels, 3, 1, 1)

    def encode(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents, each [N, z_dim], of images [N, C, H, W] and their label
        vectors [N, classes]."""
        for block in self.down:
            images = block(images)
        mean, log_variance = self.latent(_joined(images.flatten(1), c)).chunk(2, dim=1)
        return mean, log_variance.clamp(_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Images [N, C, H, W] of latents [N, z_dim] and label vectors [N, classes]."""
        x = self.start(_joined(z, c)).unflatten(1, (-1, 4, 4))
        for block in reversed(self.up):
            x = block(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.last(x)

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        """What is decoded of the mean latents of images."""
        return self.decode(self.encode(images, c)[0], c)


def _joined(x: Tensor, c: Tensor | None) -> Tensor:
    return x if c is None else torch.cat([x, c], dim=1)
