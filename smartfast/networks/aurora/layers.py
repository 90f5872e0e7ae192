"""Layers of Aurora's generator.

Learned tensors are stored at unit scale and multiplied by a gain at run time (equalized learning rate). Names of
parameters and buffers are those of the original, so its state dicts load as they are.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.kernels import (
    ACTIVATIONS,
    DEMODULATION_EPS,
    Epilogue,
    bias_act,
    conv2d_resample,
    finish,
    modulated_conv2d,
    setup_filter,
)
from smartfast.networks.aurora.deformable import TAPS, deformable_columns


def normalized(x: Tensor) -> Tensor:
    """Each row of [N, F] with a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def unit_kernels(weight: Tensor) -> Tensor:
    """Kernels [..., I, kh, kw], each with a norm of 1."""
    return weight * weight.square().sum(dim=(-3, -2, -1), keepdim=True).rsqrt()


def at_least_float32(x: Tensor) -> Tensor:
    """x, in float32 where it is in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Dense(nn.Module):
    """Linear layer, [..., I] -> [..., O] in the dtype of its input."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        act: str = "linear",
        bias: float | Sequence[float] | None = 0.0,
        start: float = 1.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.act, self.lr_multiplier = act, lr_multiplier
        self.gain = lr_multiplier / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * (start / lr_multiplier))
        self.bias = None
        if bias is not None:
            first = torch.tensor(bias, dtype=torch.float32).expand(outputs)
            self.bias = nn.Parameter(first / lr_multiplier)

    def scaled(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they act."""
        return self.weight * self.gain, None if self.bias is None else self.bias * self.lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if part is None else part.to(x.dtype) for part in self.scaled())
        assert weight is not None
        y = F.linear(x, weight, bias)
        return y if self.act == "linear" else bias_act(y, act=self.act)


class ModulatedConv(nn.Module):
    """Convolution whose kernels are mixed and scaled for each image, [N, I, H, W] -> [N, O, H', W'].

    The kernels, mixed by a softmax of w, are divided by their norms, multiplied by styles and divided by their norms
    again, which is what keeps large styles from float16's bounds. The original divides the styles by a mean over the
    whole batch; here it is each image's own, so that an image depends on no other. The second division takes either
    factor out again, so the results are the same.

    kernels: To mix. up: 2 doubles the resolution. deformable: The taps are at places that x and w move.
    """

    filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        size: int,
        *,
        kernels: int = 1,
        up: int = 1,
        taps: Sequence[float] = (1, 3, 3, 1),
        demodulate: bool = True,
        deformable: bool = False,
        act: str = "linear",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up, self.demodulate, self.deformable, self.act, self.clamp = up, demodulate, deformable, act, clamp
        self.weight = nn.Parameter(torch.randn(kernels, outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Dense(w_dim, inputs, bias=1.0)
        if kernels > 1:
            self.filter_weight = Dense(w_dim, kernels, bias=1.0)
        if up > 1:
            self.register_buffer("filter", setup_filter(taps))
        if deformable:
            self.mtm_style = Dense(w_dim, inputs, bias=1.0)
            self.mtm_weight = nn.Parameter(torch.randn(3 * TAPS, inputs, size, size))
            self.mtm_bias = nn.Parameter(torch.zeros(1, 3 * TAPS, 1, 1))
            self.mtm_scales = nn.Parameter(torch.zeros(1, 3 * TAPS, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: [N, I, H, W], w: [N, w_dim]."""
        styles = self.style(w)
        styles = normalized(styles) if self.demodulate else styles / math.sqrt(self.weight[0, 0].numel())
        if len(self.weight) == 1 and not self.deformable:
            return modulated_conv2d(
                x,
                self._kernels(self.weight)[0],
                styles,
                bias=self.bias.to(x.dtype),
                demodulate=self.demodulate,
                act=self.act,
                gain=ACTIVATIONS[self.act].gain,
                clamp=self.clamp,
                **self._layout(),
            )
        weight = self._mixed(w)
        d = (styles.square()[:, None] * weight.square().sum(dim=(-2, -1))).sum(dim=2) if self.demodulate else None
        if d is not None:
            d = (d + DEMODULATION_EPS / weight[0, 0].numel()).rsqrt()
        z = self._convolve(x * styles[:, :, None, None].to(x.dtype), weight.to(x.dtype), x, w)
        activation = ACTIVATIONS[self.act]._replace(clamp=self.clamp)
        return finish(z, Epilogue(d, bias=self.bias.to(x.dtype), activation=activation))

    def places(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [N, 18, H, W] and factors [N, 9, H, W] of the taps, see `deformable_columns`, at least in float32."""
        moved = modulated_conv2d(x, unit_kernels(self.mtm_weight), normalized(self.mtm_style(w)), padding=1)
        moved = at_least_float32(moved) * self.mtm_scales + self.mtm_bias
        return moved[:, : 2 * TAPS], 2 * moved[:, 2 * TAPS :].sigmoid()

    def _kernels(self, weight: Tensor) -> Tensor:
        return unit_kernels(weight) if self.demodulate else weight

    def _mixed(self, w: Tensor) -> Tensor:
        """Kernels of each image, [N, O, I, kh, kw], or [1, O, I, kh, kw] where all have the same."""
        if len(self.weight) == 1:
            return self._kernels(self.weight)
        shares = self.filter_weight(w).softmax(dim=1)
        return self._kernels((shares @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:]))

    def _convolve(self, scaled: Tensor, weight: Tensor, x: Tensor, w: Tensor) -> Tensor:
        n, _, h, width = x.shape
        if self.deformable:
            columns = deformable_columns(scaled, *self.places(x, w)).flatten(1, 2)
            shared = weight[0] if len(weight) == 1 else weight
            return (shared.flatten(-3) @ columns).unflatten(2, (h, width))
        images = scaled.reshape(1, -1, h, width)
        z = conv2d_resample(images, weight.flatten(0, 1), groups=n, **self._layout())
        return z.reshape(n, -1, *z.shape[2:])

    def _layout(self) -> dict[str, Any]:
        f = self.filter if self.up > 1 else None
        return dict(up=self.up, f=f, padding=self.weight.shape[-1] // 2, flip_weight=self.up == 1)


class PlainConv(nn.Module):
    """1x1 convolution without bias, [N, I, H, W] -> [N, O, H', W']; up: 2 doubles the resolution."""

    filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        up: int = 1,
        taps: Sequence[float] = (1, 3, 3, 1),
        clamp: float | None = None,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        self.up, self.clamp, self.gain = up, clamp, 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1) * start)
        if up > 1:
            self.register_buffer("filter", setup_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        f = self.filter if self.up > 1 else None
        y = conv2d_resample(x, (self.weight * self.gain).to(x.dtype), up=self.up, f=f)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class LayerNorm(nn.LayerNorm):
    """At least in float32, whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(at_least_float32(x)).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """At least in float32, whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(at_least_float32(x)).to(x.dtype)


class ConstantInput(nn.Module):
    """A learned image for all latents."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, channels, size, size))

    def forward(self, w: Tensor) -> Tensor:
        return self.const.expand(len(w), -1, -1, -1)


class FourierInput(nn.Module):
    """Waves that w turns and moves, as StyleGAN3's (Karras et al., arXiv 2106.12423), of which none is damped.

    `transform`, 3x3, is applied to the image before; it is the identity unless a user sets it.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.size = size
        freqs = torch.randn(channels, 2)
        radius_squared = freqs.square().sum(dim=1, keepdim=True)
        freqs = freqs / (radius_squared.sqrt() * radius_squared.exp().pow(0.25))
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Dense(w_dim, 4, bias=(1.0, 0.0, 0.0, 0.0), start=0.0)
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        cos, sin, right, down = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # [N, 2, 2]
        shift = -(turn @ torch.stack([right, down], 1)[:, :, None])
        linear = turn @ self.transform[:2, :2]
        shift = turn @ self.transform[:2, 2:] + shift
        phases = self.phases + (self.freqs @ shift)[:, :, 0]
        freqs = self.freqs @ linear  # [N, channels, 2]
        place = (torch.arange(self.size, device=w.device, dtype=w.dtype) + 0.5) / self.size - 0.5
        waves = freqs[:, :, 0, None, None] * place + freqs[:, :, 1, None, None] * place[:, None]
        waves = torch.sin((waves + phases[:, :, None, None]) * (2 * math.pi))
        return torch.einsum("oc,nchw->nohw", self.weight / math.sqrt(len(self.weight)), waves)
