"""The convolutional ops in plain PyTorch; see reference.py for what that means."""

import math

import torch
from torch import Tensor

from smartfast.kernels.conv2d.op import conv2d
from smartfast.kernels.geometry import Quad
from smartfast.kernels.score_noise.aten import bias_act, pad_unevenly, upfirdn2d, wide

DEMODULATION_EPS = 1e-8
NO_PADS = (0, 0, 0, 0)


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """`kernels.conv2d_resample`; pads count from the image after zero insertion and align the filters already.

    Upsampling is a transposed convolution with stride `up` and then the filter, which skips the inserted zeros;
    downsampling filters first and then convolves with stride `down`; a 1x1 convolution works on the smaller image.
    One strided convolution with the filter convolved into the weight takes twice as long on a CPU with its gradients:
    four times the arithmetic to save a cheap depthwise filter.
    """
    x0, x1, y0, y1 = pads
    kh, kw = weight.shape[2:]
    is_pointwise = kh == kw == 1
    if not flip_weight and not is_pointwise:
        weight = weight.flip([2, 3])
    if up > 1 and down > 1:
        x = upfirdn2d(x, f, (up, up), (1, 1), pads, flip_filter, up**2)
        return upfirdn2d(conv2d(x, weight, groups=groups), f, (1, 1), (down, down), NO_PADS, flip_filter, 1.0)
    if up > 1 and is_pointwise:
        return upfirdn2d(conv2d(x, weight, groups=groups), f, (up, up), (1, 1), pads, flip_filter, up**2)
    if up > 1:
        x = conv2d(x, _transpose(weight.flip([2, 3]), groups), stride=up, groups=groups, transposed=True)
        pads = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)
        return upfirdn2d(x, f, (1, 1), (1, 1), pads, flip_filter, up**2)
    if down > 1 and is_pointwise:
        return conv2d(upfirdn2d(x, f, (1, 1), (down, down), pads, flip_filter, 1.0), weight, groups=groups)
    if down > 1:
        x = upfirdn2d(x, f, (1, 1), (1, 1), pads, flip_filter, 1.0)
        return conv2d(x, weight, stride=down, groups=groups)
    x, padding = pad_unevenly(x, pads)
    return conv2d(x, weight, padding=padding, groups=groups)


def _transpose(weight: Tensor, groups: int) -> Tensor:
    """[O, C / groups, kh, kw] as the [C, O / groups, kh, kw] of a transposed convolution."""
    if groups == 1:
        return weight.transpose(0, 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    f: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    flip_filter: bool,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    input_is_scaled: bool,
    next_styles: Tensor | None,
) -> Tensor:
    """`kernels.modulated_conv2d`: scaling a sample's weights is scaling its inputs before and its outputs after."""
    dtype = x.dtype
    weight, styles = wide(weight), wide(styles)
    if demodulate and dtype == torch.float16:
        weight, styles = limit_weight(weight), styles if input_is_scaled else limit_styles(styles)
    if not input_is_scaled:
        x = x * styles.to(dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(dtype), f, up, down, pads, 1, flip_weight, flip_filter)
    if demodulate:
        x = x * demodulation(weight, styles).to(dtype)[:, :, None, None]
    if noise is not None:
        x = x + noise.to(dtype)
    x = bias_act(x, bias, 1, act, alpha, gain, clamp)
    return x if next_styles is None else x * next_styles.to(dtype)[:, :, None, None]


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """One over the norm of each sample's modulated weights, [N, O], without forming those weights."""
    energy = styles.square() @ weight.square().sum(dim=[2, 3]).t()
    return torch.rsqrt(energy + DEMODULATION_EPS)


def limit_weight(weight: Tensor) -> Tensor:
    """Scale weights per output, which demodulation undoes, so that float16 does not overflow.

    With styles of at most 1 and weights of at most 1 / sqrt(fan-in), an output is at most sqrt(fan-in) times the
    largest input.
    """
    largest = weight.detach().abs().amax(dim=[1, 2, 3], keepdim=True) * math.sqrt(weight[0].numel())
    return weight / largest.clamp(min=1e-30)


def limit_styles(styles: Tensor) -> Tensor:
    """Scale styles per sample to at most 1, which demodulation undoes; see `limit_weight`."""
    return styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
