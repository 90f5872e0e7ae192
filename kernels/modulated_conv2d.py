"""StyleGAN2's convolution: weights scaled per sample, normalised, with noise, bias and activation behind it.

    w'[n, o, i] = weight[o, i] * styles[n, i],   d[n, o] = 1 / sqrt(sum over i, k of w'^2 + 1e-8)
    y[n, o] = s[n, o] * clamp(gain * act(d[n, o] * resample(conv(x[n], w'[n, o])) + noise + bias[o]))

with s = next_styles or 1 (Karras et al., arXiv 1912.04958, section 2.2). Gradients flow to x, weight, styles, noise,
bias and next_styles, to second order and beyond. The weights of single samples are never formed.
"""

from collections.abc import Sequence

from torch import Tensor

from smartfast.kernels import composite as reference_conv
from smartfast.kernels.bias_act.op import check_activation
from smartfast.kernels.conv2d_resample import aligned_padding, autocast, check_conv
from smartfast.kernels.geometry import Quad, filter_size
from smartfast.kernels.selection import dispatch, register


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
        impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, O, H', W'] in the dtype of x after autocast.

    Raises:
        ValueError: Shapes or arguments that do not fit.
    """
    check_conv(x, weight, up, down, groups=1)
    pads = aligned_padding(f, up, down, padding)
    _check_shapes(x, weight, styles, bias)
    _check_noise(x, weight, noise, f, up, down, pads)
    if next_styles is not None and next_styles.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(f"next_styles has shape {tuple(next_styles.shape)}, expected {(x.shape[0], weight.shape[0])}")
    alpha, gain = check_activation(act, alpha, gain, clamp)
    return dispatch(
        "modulated_conv2d",
        x.device,
        autocast(x),
        weight,
        styles,
        noise,
        bias,
        up,
        down,
        pads,
        f,
        demodulate,
        flip_weight,
        flip_filter,
        act,
        alpha,
        gain,
        clamp,
        input_is_scaled,
        next_styles,
        impl=impl,
    )


def _check_shapes(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None) -> None:
    if styles.shape != x.shape[:2]:
        raise ValueError(f"styles has shape {tuple(styles.shape)}, expected {tuple(x.shape[:2])}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}")


def _check_noise(
    x: Tensor, weight: Tensor, noise: Tensor | None, f: Tensor | None, up: int, down: int, pads: Quad
) -> None:
    if noise is None:
        return
    filters = (up > 1) + (down > 1)
    size = tuple(
        (length * up + before + after - (taps - 1) * filters - kernel) // down + 1
        for length, before, after, taps, kernel in zip(
            x.shape[2:], (pads[2], pads[0]), (pads[3], pads[1]), filter_size(f)[::-1], weight.shape[2:], strict=True
        )
    )
    if noise.shape not in (size, (x.shape[0], 1, *size)):
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}, expected {(x.shape[0], 1, *size)} or {size}, the size of the result"
        )


register("modulated_conv2d", "aten", reference_conv.modulated_conv2d)
