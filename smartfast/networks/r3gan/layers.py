"""The layers of R3GAN: convolutions without bias or normalization, and the activation that has the bias.

Parameters have the original names. Convolutions start normal with the variance of He et al. times a gain.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.kernels import bias_act, downsample2d, setup_filter, upsample2d

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Of a convolution whose output goes through the activation, so that its variance stays."""


def start_normal(weight: Tensor, gain: float) -> None:
    """Normal numbers of variance gain^2 / inputs, for weights [outputs, inputs, ...]."""
    inputs = math.prod(weight.shape[1:])
    if gain == 0:
        nn.init.zeros_(weight)
    else:
        nn.init.normal_(weight, std=gain / math.sqrt(inputs))


class Convolution(nn.Module):
    """A convolution that keeps the size, `Layer`, of which only the weight is learnt."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        start_normal(self.Layer.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.Layer.weight.to(x.dtype), padding=self.Layer.padding, groups=self.Layer.groups)


class BiasedActivation(nn.Module):
    """leaky_relu(x + bias), slope 0.2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.Bias.to(x.dtype), act="lrelu", alpha=SLOPE, gain=1.0)


class ResidualBlock(nn.Module):
    """x + a 1x1, a grouped 3x3 and a 1x1 convolution, an activation between each two; the last one starts at 0.

    Args:
        channels: In and out.
        cardinality: Groups of the 3x3 convolution.
        expansion: Channels inside over `channels`.
        blocks: Residual blocks of the whole network: the more there are, the smaller each starts.
    """

    def __init__(self, channels: int, *, cardinality: int, expansion: int, blocks: int) -> None:
        super().__init__()
        inside, gain = channels * expansion, GAIN * blocks ** (-1 / 4)
        self.LinearLayer1 = Convolution(channels, inside, 1, gain=gain)
        self.LinearLayer2 = Convolution(inside, inside, 3, groups=cardinality, gain=gain)
        self.LinearLayer3 = Convolution(inside, channels, 1, gain=0)
        self.NonLinearity1, self.NonLinearity2 = BiasedActivation(inside), BiasedActivation(inside)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        y = self.NonLinearity2(self.LinearLayer2(y))
        return x + self.LinearLayer3(y)


class Resampler(nn.Module):
    """Twice or half the size by nearest neighbours smoothed with a FIR filter; `Kernel` is both in two dimensions."""

    Kernel: Tensor

    def __init__(self, taps: Sequence[float], *, up: bool) -> None:
        super().__init__()
        self.up = up
        smoothed = [a + b for a, b in zip([*taps, 0], [0, *taps], strict=True)]
        self.register_buffer("Kernel", setup_filter(smoothed, separable=False))

    def forward(self, x: Tensor) -> Tensor:
        return (upsample2d if self.up else downsample2d)(x, self.Kernel)


class Transition(nn.Module):
    """Between two stages: the channels change by a 1x1 convolution on the lower resolution, where they change."""

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float], *, up: bool) -> None:
        super().__init__()
        self.Resampler = Resampler(taps, up=up)
        if inputs != outputs:
            self.LinearLayer = Convolution(inputs, outputs, 1)
        self._changes, self._up = inputs != outputs, up

    def forward(self, x: Tensor) -> Tensor:
        if not self._changes:
            return self.Resampler(x)
        return self.Resampler(self.LinearLayer(x)) if self._up else self.LinearLayer(self.Resampler(x))


class GenerativeBasis(nn.Module):
    """From latents [N, inputs] to images [N, channels, 4, 4]: learnt images, each times a number."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(channels, 4, 4))
        self.LinearLayer = nn.Linear(inputs, channels, bias=False)
        start_normal(self.LinearLayer.weight, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.Basis * self.LinearLayer(z)[:, :, None, None]


class DiscriminativeBasis(nn.Module):
    """From images [N, channels, 4, 4] to [N, outputs]: each channel's product with a learnt image, then all mixed."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.Basis = nn.Conv2d(channels, channels, 4, groups=channels, bias=False)
        start_normal(self.Basis.weight, 1)
        self.LinearLayer = nn.Linear(channels, outputs, bias=False)
        start_normal(self.LinearLayer.weight, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.Basis.weight[:, 0]  # not in half precision: it is the last of the network
        return self.LinearLayer((x.to(weight.dtype) * weight).sum(dim=[2, 3]))
