"""Diffusion's forward process with noise that nobody has to store.

    x_t[n] = alpha[n] * x[n] + sigma[n] * eps[n],        eps ~ N(0, I)

eps[n] is a pure function of (seed, purpose, stream[n], pixel), see philox.py, so `denoise_distance` draws the same
noise again. Linear in x and differentiable to any order, also with respect to alpha and sigma.
"""

import torch
from torch import Tensor

from smartfast.kernels.score_noise import aten as reference
from smartfast.kernels.selection import dispatch, register


def noise_forward(
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int = 0,
    dtype: torch.dtype | None = None,
    impl: str | None = None,
) -> Tensor:
    """Images at their noise levels (SMaRt, arXiv 2311.18208, eq. 10).

    Args:
        x: [N, C, H, W], any floating dtype.
        alpha, sigma: float32 [N], signal and noise level of each image.
        seed, purpose: Key of the noise, see `philox_words`.
        stream: int64 [N], the noise's identity; equal streams get equal noise.
        dtype: Dtype of the result; None = that of x. The computation is in float32 (float64 if x is).
        impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        x_t [N, C, H, W], in the memory format of x.

    Raises:
        ValueError: Shapes or dtypes that do not fit.
    """
    check_noise(x, "x", stream)
    check_per_image(alpha, "alpha", x)
    check_per_image(sigma, "sigma", x)
    dtype = x.dtype if dtype is None else dtype
    return dispatch("noise_forward", x.device, x, alpha, sigma, seed, stream, purpose, dtype, impl=impl)


def check_noise(images: Tensor, name: str, stream: Tensor) -> None:
    """Check that `images` can have noise of the streams.

    Raises:
        ValueError: `images` is not floating point [N, C, H, W] or `stream` is not int64 [N].
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"{name} is {images.dtype} {tuple(images.shape)}, expected floating point [N, C, H, W]")
    if stream.dtype != torch.int64 or stream.shape != images.shape[:1]:
        raise ValueError(f"stream is {stream.dtype} {tuple(stream.shape)}, expected torch.int64 {(images.shape[0],)}")


def check_per_image(value: Tensor, name: str, images: Tensor) -> None:
    """Check that `value` holds one floating-point number per image.

    Raises:
        ValueError: It does not.
    """
    if value.shape != images.shape[:1] or not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, expected floating point {(images.shape[0],)}")


register("noise_forward", "aten", reference.noise_forward)
