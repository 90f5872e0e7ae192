"""StyleGAN2's convolutions, made of the ops: with resampling, and modulated with all that follows.

    conv2d_resample:  y = downsample(convolve(upsample(x, up), weight), down)

    modulated_conv2d: w'[n, o, i] = weight[o, i] * styles[n, i],   d[n, o] = 1 / sqrt(sum over i, k of w'^2 + 1e-8)
                      y[n, o] = s[n, o] * clamp(gain * act(d[n, o] * resample(conv(x[n], w'[n, o])) + noise + bias[o]))

with s = next_styles or 1 (Karras et al., arXiv 1912.04958, section 2.2). Weights of single samples are never formed:
scaling a sample's weights is scaling its inputs before and its outputs after. Gradients flow to every tensor but the
filter, to every order.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bias_act.op import Activation, make_activation
from .conv2d.op import Convolution
from .epilogue.op import Epilogue, check_epilogue
from .geometry import Quad, check_images, check_integer, filter_size, pad_unevenly, parse_padding, wide
from .routes import DEFAULT_ROUTE, ROUTES, Route, route_of, routes_are_noted
from .selection import choose, implementation, public, register, without_autocast
from .upfirdn2d.op import Resampling, downsample_padding, upsample_padding

DEMODULATION_EPS = 1e-8


class Layout(NamedTuple):
    """How images are resampled around the convolution; pads count after zero insertion and align the filters."""

    f: Tensor | None
    up: int
    down: int
    pads: Quad
    groups: int
    flip_weight: bool
    flip_filter: bool


@public(op="conv2d")
def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    *,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str | None = None,
) -> Tensor:
    """Convolve images and enlarge or shrink them on the way.

    Args:
        x: [N, C, H, W], any floating dtype; under autocast it is cast to the autocast dtype.
        weight: [O, C / groups, kh, kw], cast to the dtype of x.
        f: Filter of `setup_filter`; None = the identity.
        up, down: Integer factors. Enlarging keeps the mean of x.
        padding: Pixels of the upsampled image, in addition to what aligns the filters: one number, (x, y) or
            (x_before, x_after, y_before, y_after). Negative numbers crop.
        groups: Groups of input and output channels that only see each other.
        flip_weight: True = correlation (as torch's conv2d), False = convolution.
        flip_filter: True = correlation with f, False = convolution.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, O, H', W'] in the dtype of x after autocast.

    Raises:
        ValueError: Shapes or arguments that do not fit.
    """
    check_conv(x, weight, up, down, groups)
    layout = Layout(f, up, down, aligned_padding(f, up, down, padding), groups, flip_weight, flip_filter)
    check_size(x, weight, layout, padding)
    x = autocast(x)
    name = choose("conv2d", x.device, impl)
    return without_autocast(_conv2d_resample, x.device, name, x, weight.to(x.dtype), layout)


def _conv2d_resample(name: str, x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    z, last = _convolve(name, x, weight, layout)
    return z if last is None else implementation("upfirdn2d", name)(z, layout.f, last)


def _convolve(name: str, x: Tensor, weight: Tensor, layout: Layout) -> tuple[Tensor, Resampling | None]:
    """A convolution with resampling up to its last step, and that step if it is a filter, which may take more with it.

    Upsampling is a transposed convolution with stride `up` and then the filter, which skips the inserted zeros;
    downsampling filters first and then convolves with stride `down`; a 1x1 convolution works on the smaller image.
    One strided convolution with the filter convolved into the weight takes twice as long on a CPU with its gradients:
    four times the arithmetic to save a cheap depthwise filter.
    """
    f, up, down, pads, groups, flip_weight, flip = layout
    upfirdn2d, conv2d = implementation("upfirdn2d", name), implementation("conv2d", name)
    x0, x1, y0, y1 = pads
    kh, kw = weight.shape[2:]
    is_pointwise = kh == kw == 1
    is_transposed = up > 1 and down == 1 and not is_pointwise
    if flip_weight == is_transposed and not is_pointwise:  # a transposed convolution flips by itself
        weight = weight.flip([2, 3])
    plain = Convolution(groups=groups)
    if is_transposed:
        x = conv2d(x, _transpose(weight, groups), Convolution(up, groups=groups, transposed=True))
        pads = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)
        return x, Resampling(pads=pads, flip_filter=flip, gain=up**2)
    if up > 1 and down > 1:
        x = upfirdn2d(x, f, Resampling((up, up), pads=pads, flip_filter=flip, gain=up**2))
        return conv2d(x, weight, plain), Resampling(down=(down, down), flip_filter=flip)
    if up > 1:
        return conv2d(x, weight, plain), Resampling((up, up), pads=pads, flip_filter=flip, gain=up**2)
    if down > 1 and is_pointwise:
        x = upfirdn2d(x, f, Resampling(down=(down, down), pads=pads, flip_filter=flip))
        return conv2d(x, weight, plain), None
    if down > 1:
        x = upfirdn2d(x, f, Resampling(pads=pads, flip_filter=flip))
        return conv2d(x, weight, Convolution(down, groups=groups)), None
    x, padding = pad_unevenly(x, pads)
    return conv2d(x, weight, Convolution(padding=padding, groups=groups)), None


def _transpose(weight: Tensor, groups: int) -> Tensor:
    """[O, C / groups, kh, kw] as the [C, O / groups, kh, kw] of a transposed convolution."""
    if groups == 1:
        return weight.transpose(0, 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _explain_route(x: Tensor, weight: Tensor, **call: Any) -> str:
    activation = make_activation(call["act"], call["alpha"], call["gain"], call["clamp"])
    pads = aligned_padding(call["f"], call["up"], call["down"], call["padding"])
    # No sample, so that nothing is computed for the dtype that autocast gives.
    route = _route(autocast(x[:0]), weight, call["up"], call["down"], pads, activation)
    return f"route {route.name}, {ROUTES[route.name]} ({route.reason})"


def _route(x: Tensor, weight: Tensor, up: int, down: int, pads: Quad, activation: Activation) -> Route:
    """How Triton computes a modulated convolution."""
    if up > 1 or down > 1:
        return Route("library", "gemm does not do resampling")
    x0, x1, y0, y1 = pads
    padding = (y0, x0) if x0 == x1 and y0 == y1 else (-1, -1)
    return route_of(x, weight, Convolution(padding=padding), activation)


@public(op="conv2d", route=_explain_route)
def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    f: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    flip_filter: bool = False,
    act: str = "linear",
    alpha: float | None = None,
    gain: float = 1.0,
    clamp: float | None = None,
    input_is_scaled: bool = False,
    next_styles: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Convolve every sample with its own scaled weights, then add noise and bias and activate.

    Args:
        x: [N, I, H, W], any floating dtype; under autocast it is cast to the autocast dtype.
        weight: [O, I, kh, kw], in any floating dtype.
        styles: [N, I], in any floating dtype.
        noise: [N, 1, H', W'] or [H', W'], already scaled by its strength; None = none.
        bias: [O] or None.
        up, down, padding, f, flip_weight, flip_filter: See `conv2d_resample`.
        demodulate: Divide by the norm of the scaled weights, d above.
        act, alpha, clamp: See `bias_act`.
        gain: Factor after the activation (no default that depends on the activation).
        input_is_scaled: x carries the styles already, from the `next_styles` of the layer before.
        next_styles: [N, O] that multiply the result: the styles of the layer behind, which then need not read and
            write it once more. None = none.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, O, H', W'] in the dtype of x after autocast.

    Raises:
        ValueError: Shapes or arguments that do not fit.
    """
    check_conv(x, weight, up, down, groups=1)
    if styles.shape != x.shape[:2]:
        raise ValueError(f"styles has shape {tuple(styles.shape)}, expected {tuple(x.shape[:2])}")
    layout = Layout(f, up, down, aligned_padding(f, up, down, padding), 1, flip_weight, flip_filter)
    epilogue = Epilogue(None, noise, bias, next_styles, make_activation(act, alpha, gain, clamp))
    check_epilogue(epilogue, x.shape[0], weight.shape[0], *check_size(x, weight, layout, padding))
    x, name = autocast(x), choose("conv2d", x.device, impl)
    return without_autocast(
        _modulated_conv2d, x.device, name, x, weight, styles, layout, demodulate, input_is_scaled, epilogue
    )


def _modulated_conv2d(
    name: str,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    layout: Layout,
    demodulate: bool,
    input_is_scaled: bool,
    epilogue: Epilogue,
) -> Tensor:
    """epilogue: All but the demodulation."""
    f, up, down, pads, _, flip_weight, _ = layout
    takes_route = name == "triton" or routes_are_noted()
    route = _route(x, weight, up, down, pads, epilogue.activation).name if takes_route else DEFAULT_ROUTE
    if route == "aten":
        name = "aten"
    dtype, finish = x.dtype, implementation("finish", name)
    weight, styles = wide(weight), wide(styles)
    eps: Tensor | float = DEMODULATION_EPS
    if demodulate and dtype == torch.float16:
        weight, styles, eps = limit(weight, styles, input_is_scaled)
    if not input_is_scaled:
        x = finish(x, Epilogue(demodulation=styles))

    def complete() -> Epilogue:
        return epilogue._replace(demodulation=demodulation(weight, styles, eps)) if demodulate else epilogue

    if route == "gemm":
        precision = "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"
        w = weight.to(dtype) if flip_weight else weight.to(dtype).flip([2, 3])
        return implementation("conv_gemm", name)(x, w, complete(), precision)
    z, last = _convolve(name, x, weight.to(dtype), layout)
    return finish(z, complete()) if last is None else implementation("upfirdn2d_finish", name)(z, f, last, complete())


def _conv_gemm_by(name: str, x: Tensor, weight: Tensor, epilogue: Epilogue, precision: str = "ieee") -> Tensor:
    """What the kernel of the gemm route computes, by the ops of another; PyTorch has its own settings of precision."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    z = implementation("conv2d", name)(x, weight, Convolution(padding=padding))
    return implementation("finish", name)(z, epilogue)


def _conv_gemm_aten(x: Tensor, weight: Tensor, epilogue: Epilogue, precision: str = "ieee") -> Tensor:
    return _conv_gemm_by("aten", x, weight, epilogue, precision)


def _conv_gemm_library(x: Tensor, weight: Tensor, epilogue: Epilogue, precision: str = "ieee") -> Tensor:
    return _conv_gemm_by("triton", x, weight, epilogue, precision)


register("conv_gemm", "aten", _conv_gemm_aten)
register("conv_gemm", "library", _conv_gemm_library)


def demodulation(weight: Tensor, styles: Tensor, eps: Tensor | float = DEMODULATION_EPS) -> Tensor:
    """One over the norm of each sample's modulated weights, [N, O], without forming those weights."""
    energy = styles.square() @ weight.square().sum(dim=[2, 3]).t()
    return torch.rsqrt(energy + eps)


def limit(weight: Tensor, styles: Tensor, input_is_scaled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights scaled per output and styles per sample, which demodulation undoes, so that float16 does not overflow.

    With styles of at most 1 and weights of at most 1 / sqrt(fan-in), an output is at most sqrt(fan-in) times the
    largest input. Scales stay above sqrt(DEMODULATION_EPS), under which it is eps that demodulates: weights of zero
    have finite gradients.

    Returns:
        weight, styles (as they are if the input is scaled by them already), and the eps [N or 1, O] that belongs to
        them, but not less than DEMODULATION_EPS: more than its 1e4 times would not fit into float16.
    """
    floor = math.sqrt(DEMODULATION_EPS)
    per_output = weight.detach().abs().amax(dim=[1, 2, 3]).mul(math.sqrt(weight[0].numel())).clamp(min=floor)
    per_sample = styles.new_ones(1, 1)
    if not input_is_scaled:
        per_sample = styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=floor)
    eps = (floor / (per_sample * per_output)).square().clamp(min=DEMODULATION_EPS)
    return weight / per_output[:, None, None, None], styles / per_sample, eps


def limit_styles(styles: Tensor) -> Tensor:
    """Scale the styles of samples that have one above 1 to at most 1, which demodulation undoes; see `limit`."""
    return styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1)


def aligned_padding(f: Tensor | None, up: int, down: int, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """`padding` plus what aligns the filters: (x_before, x_after, y_before, y_after) of the upsampled image."""
    total = parse_padding(padding)
    for extra, factor in ((upsample_padding, up), (downsample_padding, down)):
        if factor > 1:
            x0, x1, y0, y1 = (a + b for a, b in zip(total, extra(f, factor, factor), strict=True))
            total = x0, x1, y0, y1
    return total


def autocast(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives convolutions, as it is without autocast or in float64."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def check_conv(x: Tensor, weight: Tensor, up: int, down: int, groups: int) -> None:
    """Check the shapes of a convolution's arguments.

    Raises:
        ValueError: What does not fit.
    """
    check_images(x)
    for name, value in (("up", up), ("down", down), ("groups", groups)):
        check_integer(value, name, 1)
    if weight.ndim != 4 or weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected [O, {x.shape[1]} / groups, kh, kw] and O a multiple of "
            f"{groups} groups"
        )


def check_size(x: Tensor, weight: Tensor, layout: Layout, padding: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a convolution's result, each of its filters taking its length from the image.

    Raises:
        ValueError: There is no result, because `padding`, which the layout has aligned, crops too much.
    """
    (fw, fh), (x0, x1, y0, y1), (kh, kw) = filter_size(layout.f), layout.pads, weight.shape[2:]
    filters = (layout.up > 1) + (layout.down > 1)
    height = x.shape[2] * layout.up + y0 + y1 - (fh - 1) * filters - kh + 1
    width = x.shape[3] * layout.up + x0 + x1 - (fw - 1) * filters - kw + 1
    if min(height, width) < 1:
        raise ValueError(
            f"padding {padding} leaves {height}x{width} pixels of x {tuple(x.shape)}, expected at least 1x1"
        )
    return (height - 1) // layout.down + 1, (width - 1) // layout.down + 1
