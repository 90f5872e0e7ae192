"""What follows a convolution in StyleGAN2's layers, as one step at the end of any kernel that holds a tile of it.

    y = s * clamp(gain * act(d[n, c] * z + noise[n, h, w] + bias[c])),      s = the next layer's styles[n, c], or 1

act is linear, relu or lrelu.
"""

import triton
import triton.language as tl


@triton.jit
def activate(v, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr):
    """clamp(gain * act(v)); CLAMP = None for none. A NaN stays one, so that a training step is seen to be bad.

    Constants are constexpr to fold and to keep float64 exact; minimum and maximum would round a bare one to float32.
    """
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)
    if ACT == "lrelu":
        v = tl.where(v > 0, v, v * ALPHA)
    v = v * GAIN
    if CLAMP is not None:
        limit = tl.full(v.shape, CLAMP, v.dtype)
        v = tl.maximum(v, -limit, propagate_nan=tl.PropagateNan.ALL)
        v = tl.minimum(v, limit, propagate_nan=tl.PropagateNan.ALL)
    return v


@triton.jit
def finish_tile(
    z,
    n,
    pixels,
    pixel_mask,
    channels,
    channel_mask,
    num_channels,
    demodulation,
    noise,
    noise_stride,
    bias,
    next_styles,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
):
    """The epilogue of one sample's tile.

    Args:
        z: [P, C] in the dtype of computation.
        n: Sample.
        pixels, pixel_mask: [P] h * W + w, and which exist.
        channels, channel_mask: [C], and which exist.
        demodulation, next_styles: Pointers to [N, num_channels], or None.
        noise: Pointer to [H * W] per sample, `noise_stride` apart (0 = shared), or None.
        bias: Pointer to [num_channels], or None.
        ALPHA, GAIN, CLAMP, ACT: See `activate`.

    Returns:
        [P, C] in the dtype of z.
    """
    if demodulation is not None:
        d = tl.load(demodulation + n * num_channels + channels, mask=channel_mask, other=0.0)
        z = z * d.to(z.dtype)[None, :]
    if noise is not None:
        z = z + tl.load(noise + n * noise_stride + pixels, mask=pixel_mask, other=0.0).to(z.dtype)[:, None]
    if bias is not None:
        z = z + tl.load(bias + channels, mask=channel_mask, other=0.0).to(z.dtype)[None, :]
    z = activate(z, ALPHA, GAIN, CLAMP, ACT)
    if next_styles is not None:
        s = tl.load(next_styles + n * num_channels + channels, mask=channel_mask, other=0.0)
        z = z * s.to(z.dtype)[None, :]
    return z
