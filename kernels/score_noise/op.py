"""Diffusion's forward process with noise that nobody has to store, and the distance of a prediction to that noise.

    x_t[n] = alpha[n] * x[n] + sigma[n] * eps[n],        eps ~ N(0, I)
    d[n] = weight[n] * mean over c, h, w of (eps_hat[n] - eps[n])^2

eps[n] is a pure function of (seed, purpose, stream[n], pixel), see ../philox, so the distance draws the same noise
again. eps_hat is what the prediction says about eps. With x_t = alpha x + sigma eps a network that predicts x0 or v =
alpha eps - sigma x says it as (x_t - alpha prediction) / sigma or, where alpha^2 + sigma^2 = 1, as alpha prediction +
sigma x_t. Put in, both distances are those of the prediction to its own target:

    eps:  d = weight                    * mean((prediction - eps)^2)
    x0:   d = weight * (alpha/sigma)^2  * mean((prediction - x)^2)
    v:    d = weight * alpha^2          * mean((prediction - (alpha eps - sigma x))^2)

which is how they are computed: no difference of nearly equal numbers is divided by a small sigma, so x_t may be in
half precision, and nothing is converted or stored in between. Gradients flow to everything but the noise, to any order.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry import check_images
from ..philox.op import check_draw
from ..selection import dispatch, public

Parameterization = Literal["eps", "x0", "v"]


class Target(NamedTuple):
    """x_factor[n] * x + noise_factor[n] * eps. Factors None = 1; x None, stream None = a term that is not there."""

    x: Tensor | None
    x_factor: Tensor | None
    noise_factor: Tensor | None
    stream: Tensor | None
    seed: int
    purpose: int


@public()
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
        seed, purpose: Key of the noise, see `philox_uniform`.
        stream: int64 [N], the noise's identity; equal streams get equal noise.
        dtype: Dtype of the result; None = that of x. The computation is in float32 (float64 if x is).
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        x_t [N, C, H, W], in the memory format of x.

    Raises:
        ValueError: Shapes or dtypes that do not fit.
    """
    check_noise(x, "x", seed, stream, purpose)
    check_per_image(alpha, "alpha", x)
    check_per_image(sigma, "sigma", x)
    dtype = x.dtype if dtype is None else dtype
    return dispatch("noise_forward", x.device, x, alpha, sigma, seed, stream, purpose, dtype, impl=impl)


@public()
def denoise_distance(
    prediction: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int = 0,
    weight: Tensor | None = None,
    parameterization: Parameterization = "eps",
    x: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    in_eps: bool = True,
    impl: str | None = None,
) -> Tensor:
    """Mean squared error in eps of each prediction (SMaRt, arXiv 2311.18208, eq. 10).

    Gradients of any order flow to the prediction, and to weight, x, alpha and sigma where they are used. For x0 and v
    the whole gradient for x is the one through the network plus the one given here.

    Args:
        prediction: [N, C, H, W], any floating dtype; half precision is computed in float32.
        seed, stream, purpose: Those of the `noise_forward` call.
        weight: float32 [N] or None for 1.
        parameterization: What the prediction is of.
        x: [N, C, H, W], the images before noise. Not read for "eps", as alpha and sigma.
        alpha, sigma: float32 [N], those of the `noise_forward` call, alpha^2 + sigma^2 = 1.
        in_eps: False = the mean squared error of the prediction itself, without the factor that makes it one in eps.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        float32 [N], float64 if the prediction is.

    Raises:
        ValueError: Shapes or dtypes that do not fit; an unknown parameterization, or one that lacks x, alpha or sigma.
    """
    target, weight = _target(prediction, seed, stream, purpose, weight, parameterization, x, alpha, sigma, in_eps)
    return dispatch("denoise_distance", prediction.device, prediction, target, weight, impl=impl)


@public()
def denoise_distance_and_gradient(
    prediction: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int = 0,
    weight: Tensor | None = None,
    parameterization: Parameterization = "eps",
    x: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    in_eps: bool = True,
    overwrite: bool = False,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`denoise_distance` and the gradient of its sum for the prediction, in one pass over the prediction.

    For those who know the loss to be a weighted sum of the distances: with the factors in `weight`,

        distance, gradient = denoise_distance_and_gradient(prediction, ..., weight=weight, overwrite=True)
        (images_gradient,) = torch.autograd.grad(prediction, images, gradient)

    In half precision it moves 4 bytes per element (2 read, 2 written) where `denoise_distance` and its backward pass
    move 6 and draw the noise twice. The prediction's values take no part in the backward pass unless the last layer
    has saved them; autograd then raises an error if they were overwritten.

    Args:
        overwrite: Write the gradient into the memory of `prediction`, which it then replaces, without new memory.
        Others: See `denoise_distance`.

    Returns:
        The distance [N] and the gradient [N, C, H, W] in the prediction's dtype, neither differentiable. For x0 the
        gradient for x, apart from the one through the network, is -1 times that, for v sigma times that.

    Raises:
        ValueError: As `denoise_distance`, and a prediction to be overwritten whose elements share memory.
    """
    prediction = prediction.detach()
    weight, x, alpha, sigma = (None if tensor is None else tensor.detach() for tensor in (weight, x, alpha, sigma))
    strides = zip(prediction.stride(), prediction.shape, strict=True)
    if overwrite and any(stride == 0 and size > 1 for stride, size in strides):
        raise ValueError("prediction is expanded, expected a tensor of its own memory to be overwritten")
    target, weight = _target(prediction, seed, stream, purpose, weight, parameterization, x, alpha, sigma, in_eps)
    arguments = (prediction, target, weight, overwrite)
    return dispatch("denoise_distance_and_gradient", prediction.device, *arguments, impl=impl)


def _target(
    prediction: Tensor,
    seed: int,
    stream: Tensor,
    purpose: int,
    weight: Tensor | None,
    parameterization: str,
    x: Tensor | None,
    alpha: Tensor | None,
    sigma: Tensor | None,
    in_eps: bool,
) -> tuple[Target, Tensor | None]:
    """What the prediction should be and the weight of the squares (None = 1), from checked arguments."""
    check_noise(prediction, "prediction", seed, stream, purpose)
    if weight is not None:
        check_per_image(weight, "weight", prediction)
    if parameterization not in ("eps", "x0", "v"):
        raise ValueError(f"parameterization is {parameterization!r}, expected eps, x0 or v")
    if parameterization == "eps":
        return Target(None, None, None, stream, seed, purpose), weight
    if x is None or alpha is None or sigma is None:
        raise ValueError(f"x, alpha or sigma is None, expected all three for parameterization {parameterization!r}")
    if x.shape != prediction.shape or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected floating point {tuple(prediction.shape)}")
    check_per_image(alpha, "alpha", prediction)
    check_per_image(sigma, "sigma", prediction)
    if in_eps:
        scale = alpha / sigma if parameterization == "x0" else alpha
        weight = scale.square() if weight is None else weight * scale.square()
    if parameterization == "x0":
        return Target(x, None, None, None, seed, purpose), weight
    return Target(x, -sigma, alpha, stream, seed, purpose), weight


def check_noise(images: Tensor, name: str, seed: int, stream: Tensor, purpose: int) -> None:
    """Check that `images` can have noise of the streams.

    Raises:
        ValueError: `images` is not floating point [N, C, H, W], or `stream` not int64 [N], or as `check_draw`.
    """
    check_images(images, name)
    if stream.shape != images.shape[:1]:
        raise ValueError(f"stream is {stream.dtype} {tuple(stream.shape)}, expected torch.int64 {(images.shape[0],)}")
    check_draw(seed, stream, math.prod(images.shape[1:]), purpose)


def check_per_image(value: Tensor, name: str, images: Tensor) -> None:
    """Check that `value` holds one floating-point number per image.

    Raises:
        ValueError: It does not.
    """
    if value.shape != images.shape[:1] or not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, expected floating point {(images.shape[0],)}")
