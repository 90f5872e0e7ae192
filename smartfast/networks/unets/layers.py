"""What the diffusion UNets share: layers that are prepared once, normalisation, attention, resampling, embeddings.

A network is right as it is built and loaded, with the weights of its file, and then differentiable in all of them; as
it is built it has weights like those that the original begins its training with. `prepare` freezes it for speed:
weights in the form and precision that they are used in, computed once. Convolutions and attention then run in that
precision; the embeddings of noise level and class, the statistics of normalisation and the two convolutions that touch
images stay in float32, because in bfloat16 the rounding of a noised image would be a hundredth of the noise that the
network is asked for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.kernels import downsample2d, upsample2d

Resampling = Literal["up", "down"]
Images = Literal["in", "out"]
"""Whether a convolution reads or writes images."""
RowOrder = Literal["qkv, head, channel", "head, qkv, channel", "head, channel, qkv"]
"""What the rows of an attention layer's weight count, slowest first."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def prepare(network: AnyModule, dtype: torch.dtype = torch.float32) -> AnyModule:
    """Freeze a loaded network and bring its weights into the form that runs fastest; there is no way back.

    Args:
        network: Changed in place, on its device. Its state dict is no longer that of its file.
        dtype: Of the convolutions and of attention; the rest is in float32, or with float64 in that.
    """
    network.to(torch.promote_types(dtype, torch.float32))
    for module in network.modules():
        if isinstance(module, Layer):
            module.prepare(dtype)
    return network.eval().requires_grad_(False)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def start_at_zero(layer: AnyModule) -> AnyModule:
    """The layer with weights and biases of zero, as those begin whose output joins what passes them by."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Block(nn.Module):
    """A residual block.

    dropout: Probability, while it is trained, that a feature is dropped before the second convolution.
    """

    dropout: float = 0.0


def set_dropout(network: nn.Module, probability: float) -> None:
    """Set that of every block."""
    for module in network.modules():
        if isinstance(module, Block):
            module.dropout = probability


class Layer(nn.Module):
    """A weight, and a bias if any, as the file has them; `terms` gives what the layer computes with."""

    def __init__(self, shape: Sequence[int], *, bias: bool = True) -> None:
        super().__init__()
        bound = math.prod(shape[1:]) ** -0.5  # as torch's own layers
        self.weight = nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)) if bias else None
        self.is_prepared = False

    def terms(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias to compute with."""
        if self.is_prepared:
            return self.weight, self.bias
        return self.final(self.weight), None if self.bias is None else self.final(self.bias)

    def final(self, term: Tensor) -> Tensor:
        """The weight [out, ...] or bias [out] to compute with, from the file's."""
        return term

    def prepare(self, dtype: torch.dtype) -> None:
        """Keep only what `terms` gives, in `dtype` and channels-last."""
        weight, bias = self.terms()
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        self.weight = nn.Parameter(weight.detach().to(dtype, memory_format=layout), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.is_prepared = True

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        if self.is_prepared:
            raise RuntimeError("the network is prepared, expected weights to be loaded before")
        super()._load_from_state_dict(*args, **kwargs)


class Conv(Layer):
    """A convolution of odd kernel size, [N, C, H, W] -> [N, C', H, W].

    images: Whether it reads or writes images; then it stays in float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
        images: Images | None = None,
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), bias=bias)
        self.stride, self.padding, self.images = stride, kernel_size // 2, images
        self.out_dtype: torch.dtype | None = None

    def prepare(self, dtype: torch.dtype) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        super().prepare(wide if self.images else dtype)
        self.out_dtype = wide if self.images == "out" else dtype

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.terms()
        y = F.conv2d(x.to(weight.dtype), weight, bias, stride=self.stride, padding=self.padding)
        return y.to(self.out_dtype or y.dtype)


class Pointwise(Layer):
    """A 1x1 convolution as a linear layer, [N, T, C] -> [N, T, C']; its file has a weight [C', C, 1, ...].

    Args:
        dims: How many ones follow in the shape of the weight.
        heads, order: For the layer before attention: its rows come out as q/k/v, head, channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dims: int,
        bias: bool = True,
        heads: int = 1,
        order: RowOrder = "qkv, head, channel",
    ) -> None:
        super().__init__((out_channels, in_channels, *[1] * dims), bias=bias)
        self.heads, self.order = heads, order

    def final(self, term: Tensor) -> Tensor:
        return sort_rows(term.flatten(1) if term.ndim > 1 else term, self.heads, self.order)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.terms()
        return F.linear(x.to(weight.dtype), weight, bias)

    def reorder(self, order: RowOrder) -> None:
        """Take the rows of the file as being in another order, also once the layer is prepared."""
        if self.is_prepared:
            rows = torch.arange(len(self.weight), device=self.weight.device)
            before, after = (sort_rows(rows, self.heads, kind) for kind in (self.order, order))
            places = before.argsort()[after]
            for term in (self.weight, self.bias):
                if term is not None:
                    term.data = term.data[places]
        self.order = order


def sort_rows(term: Tensor, heads: int, order: RowOrder) -> Tensor:
    """A weight [3 C, ...] or bias [3 C] with rows by q/k/v, head, channel instead of `order`."""
    match order:
        case "qkv, head, channel":
            return term
        case "head, qkv, channel":
            return term.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        case "head, channel, qkv":
            return term.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)


class GroupNorm(nn.Module):
    """Group normalisation and SiLU, computed in float32, [N, C, H, W] -> the same shape.

    Args:
        act: Whether SiLU follows.

    Raises:
        ValueError: Channels that do not divide into the groups.
    """

    def __init__(self, channels: int, *, groups: int, eps: float, act: bool = True) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels, expected a multiple of the {groups} groups of a normalisation")
        self.groups, self.eps, self.act = groups, eps, act
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """(1 + scale) norm(x) + shift, with scale and shift [N, C] or none; in `dtype`, None = that of x."""
        y = at_least_float32(x)
        if self.weight.requires_grad:
            y = self._trained(y, scale, shift)
            return (F.silu(y) if self.act else y).to(dtype or x.dtype)
        var, mean = torch.var_mean(y.unflatten(1, (self.groups, -1)), dim=(2, 3, 4), correction=0)
        size = y.shape[1] // self.groups
        # One factor and one term per channel: y itself is read once and written once.
        gain, bias = self.weight * (var + self.eps).rsqrt().repeat_interleave(size, 1), self.bias.expand(len(y), -1)
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        y = (y - _over_pixels(mean.repeat_interleave(size, 1))) * _over_pixels(gain) + _over_pixels(bias)
        return (F.silu(y) if self.act else y).to(dtype or x.dtype)

    def _trained(self, y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """The same by torch's own, whose gradients take half the time where those of weights are wanted too."""
        y = F.group_norm(y, self.groups, self.weight, self.bias, self.eps)
        if scale is None or shift is None:
            return y
        return torch.addcmul(_over_pixels(shift), y, _over_pixels(1 + scale))


def _over_pixels(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def residual(
    x: Tensor,
    embedding: Tensor,
    *,
    norms: tuple[nn.Module, nn.Module],
    convs: tuple[nn.Module, nn.Module],
    skip: nn.Module | None,
    resampling: Resampling | None = None,
    taps: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """skip(x) + conv(norm(conv(norm(x)), embedding)), both resampled first where the block does that.

    Args:
        x: [N, C, H, W].
        embedding: [N, 2 C'], scale and shift after the second normalisation, or [N, C'], added before it.
        skip: Of x; None = x itself.
        resampling, taps: See `resample`.
        dropout: Probability that a feature is dropped before the second convolution.

    Returns:
        [N, C', H', W'].
    """
    h = convs[0](resample(norms[0](x), resampling, taps))
    x = resample(x, resampling, taps)
    if embedding.shape[1] == h.shape[1]:
        h = norms[1](h + _over_pixels(embedding.to(h.dtype)))
    else:
        h = norms[1](h, *embedding.chunk(2, dim=1))
    if dropout:
        h = F.dropout(h, dropout)
    return (x if skip is None else skip(x)) + convs[1](h)


def attend(
    x: Tensor, *, qkv: nn.Module, proj: nn.Module, heads: int, normalize: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Self-attention over pixels, [N, C, H, W] -> the same shape: proj(softmax(q k^T / sqrt(d)) v).

    normalize: Of queries, keys and values [N, T, 3, heads, d].
    """
    parts = qkv(x.flatten(2).transpose(1, 2)).unflatten(2, (3, heads, -1))
    q, k, v = (part.transpose(1, 2) for part in (normalize(parts) if normalize else parts).unbind(2))
    y = proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return y.transpose(1, 2).unflatten(2, x.shape[2:])


def resample(x: Tensor, resampling: Resampling | None, taps: Tensor | None = None) -> Tensor:
    """[N, C, H, W] of twice or half the height and width; taps [1, 1, k, k] of sum 1, None = 2x2 equal ones."""
    if resampling is None:
        return x
    if taps is None or taps.shape[-1] == 2:
        return F.avg_pool2d(x, 2) if resampling == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
    function = downsample2d if resampling == "down" else upsample2d
    return function(x, taps[0, 0].float())


def sinusoids(t: Tensor, dim: int, *, endpoint: bool = False) -> Tensor:
    """cos, then sin, of t [N] times frequencies from 1 down to 1/10000, [N, dim].

    endpoint: Whether the last frequency is 1/10000 itself.
    """
    half = dim // 2
    exponents = torch.arange(half, device=t.device, dtype=t.dtype) / (half - endpoint)
    angles = t[:, None] * (1 / 10000) ** exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def embed_labels(labels: Tensor, table: Tensor) -> Tensor:
    """Rows of `table` [classes, D] for class indices [N]; for label vectors [N, classes], their product with it."""
    return labels.to(table.dtype) @ table if labels.ndim == 2 else F.embedding(labels, table)
