"""Batch norm, attention and the residual blocks of both networks."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.core.distributed import mean_over_processes
from smartfast.networks.biggan.spectral import SNConv, SNLinear, SpectralOptions, Table

OUTPUT_NORM_EPS = 1e-5
"""Of the batch norm before the image, whatever that of the blocks is."""


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of a network share.

    spectral: Of every weight but that of class tables. norm_eps: Of the blocks' batch norms. own_norm: They are of the
    reference's own class: one level deeper in the names, and their running variance is the biased one. shared:
    Conditional norms take a condition of `condition` numbers through a linear layer, else one of as many classes
    through a table.
    """

    spectral: SpectralOptions = field(default_factory=SpectralOptions)
    norm_eps: float = 1e-5
    own_norm: bool = False
    shared: bool = False
    condition: int = 0


class BatchStatistics(nn.Module):
    """Normalises images by the mean and variance of a batch, or in evaluation mode by running ones.

    Attributes:
        momentum: Weight of a batch in the running ones.
        is_synchronised: The batch is that of all processes, each of which then calls it equally often.
    """

    stored_mean: Tensor
    stored_var: Tensor
    bn: "BatchStatistics"

    def __init__(self, channels: int, eps: float, *, own_norm: bool, is_inner: bool = False) -> None:
        super().__init__()
        self.eps, self.momentum, self.is_synchronised = eps, 0.1, False
        self._is_biased, self._has_inner = own_norm, own_norm and not is_inner
        if self._has_inner:
            self.bn = BatchStatistics(channels, eps, own_norm=True, is_inner=True)
            return
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        if own_norm:
            self.register_buffer("accumulation_counter", torch.zeros(1))
        self.moving_buffers = self.averaged_buffers = ("stored_mean", "stored_var")

    def normalised(self, x: Tensor) -> Tensor:
        """[N, C, H, W] with mean 0 and variance 1 in each channel, in the dtype of x."""
        if self._has_inner:
            return self.bn.normalised(x)
        processes = dist.get_world_size() if self.is_synchronised and dist.is_initialized() else 1
        if not self.training or (processes == 1 and not self._is_biased):
            return F.batch_norm(
                x, self.stored_mean, self.stored_var, None, None, self.training, self.momentum, self.eps
            )
        average = mean_over_processes if processes > 1 else torch.clone
        wide = x.to(self.stored_mean.dtype)
        mean = average(wide.mean(dim=(0, 2, 3)))
        centred = wide - mean[:, None, None]
        variance = average(centred.square().mean(dim=(0, 2, 3)))
        count = processes * x.numel() / x.shape[1]
        self._move(mean, variance if self._is_biased else variance * (count / (count - 1)))
        return (centred * (variance + self.eps).rsqrt()[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        self.stored_mean.lerp_(mean, self.momentum)
        self.stored_var.lerp_(variance, self.momentum)


class BatchNorm(BatchStatistics):
    """Batch norm whose gain and bias are learnt, one for each channel."""

    def __init__(self, channels: int, options: LayerOptions) -> None:
        super().__init__(channels, OUTPUT_NORM_EPS, own_norm=options.own_norm)
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        gain, bias = (value[:, None, None].to(x.dtype) for value in (self.gain, self.bias))
        return self.normalised(x) * gain + bias


class ConditionalBatchNorm(BatchStatistics):
    """Batch norm whose gain and bias follow from a condition (de Vries et al., arXiv 1707.00683)."""

    def __init__(self, channels: int, options: LayerOptions) -> None:
        super().__init__(channels, options.norm_eps, own_norm=options.own_norm)
        self.gain, self.bias = (_condition_layer(channels, options) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = (layer(condition)[:, :, None, None].to(x.dtype) for layer in (self.gain, self.bias))
        return self.normalised(x) * (1 + gain) + bias


def _condition_layer(channels: int, options: LayerOptions) -> nn.Module:
    if options.shared:
        return SNLinear(options.condition, channels, options.spectral, bias=False)
    return Table(options.condition, channels)


class Attention(nn.Module):
    """x + gamma * attention over the places of x (Zhang et al., arXiv 1805.08318), gamma being 0 at first.

    Queries have an eighth of the channels, values a half; keys and values are pooled to half the resolution.
    """

    def __init__(self, channels: int, options: SpectralOptions) -> None:
        super().__init__()
        if channels < 8:
            raise ValueError(f"attention has {channels} channels, expected at least 8")
        narrow, half = channels // 8, channels // 2
        self.theta, self.phi = (SNConv(channels, narrow, 1, options, bias=False) for _ in range(2))
        self.g = SNConv(channels, half, 1, options, bias=False)
        self.o = SNConv(half, channels, 1, options, bias=False)
        self.gamma = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor) -> Tensor:
        keys, values = (F.max_pool2d(layer(x), 2) for layer in (self.phi, self.g))
        query, key, value = (each.flatten(2).transpose(1, 2) for each in (self.theta(x), keys, values))
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        mixed = self.o(found.transpose(1, 2).unflatten(2, x.shape[2:]))
        return self.gamma.to(x.dtype) * mixed + x


class GeneratorBlock(nn.Module):
    """Twice the resolution: norm, relu, upsampling, 3x3, norm, relu, 3x3, beside an upsampled 1x1."""

    def __init__(self, inputs: int, outputs: int, options: LayerOptions) -> None:
        super().__init__()
        self.conv1 = SNConv(inputs, outputs, 3, options.spectral)
        self.conv2 = SNConv(outputs, outputs, 3, options.spectral)
        self.conv_sc = SNConv(inputs, outputs, 1, options.spectral)
        self.bn1, self.bn2 = ConditionalBatchNorm(inputs, options), ConditionalBatchNorm(outputs, options)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(_doubled(F.relu(self.bn1(x, condition))))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        return h + self.conv_sc(_doubled(x))


class DiscriminatorBlock(nn.Module):
    """relu (but in the first block), 3x3, relu, 3x3 and pooling where it halves, beside a 1x1 where the shape changes.

    Args:
        inputs, hidden, outputs: Channels.
        halves: Half the resolution.
        is_first: It sees images: no relu before, and pooling before the 1x1.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, options: LayerOptions, *, halves: bool, is_first: bool
    ) -> None:
        super().__init__()
        self._halves, self._is_first, self._changes = halves, is_first, halves or inputs != outputs
        self.conv1 = SNConv(inputs, hidden, 3, options.spectral)
        self.conv2 = SNConv(hidden, outputs, 3, options.spectral)
        if self._changes:
            self.conv_sc = SNConv(inputs, outputs, 1, options.spectral)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self._is_first else F.relu(x))
        h = self._pooled(self.conv2(F.relu(h)))
        if not self._changes:
            return h + self._pooled(x)
        return h + (self.conv_sc(self._pooled(x)) if self._is_first else self._pooled(self.conv_sc(x)))

    def _pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self._halves else x


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)
