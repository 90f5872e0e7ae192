"""The distance between a prediction and what it should be, with the noise of `noise_forward` drawn again, not stored.

    d[n] = weight[n] * mean over c, h, w of (eps_hat[n] - eps[n])^2

eps_hat is what the prediction says about eps. With x_t = alpha x + sigma eps a network that predicts x0 or v =
alpha eps - sigma x says it as (x_t - alpha prediction) / sigma or, where alpha^2 + sigma^2 = 1, as alpha prediction +
sigma x_t. Put in, both distances are those of the prediction to its own target:

    eps:  d = weight                    * mean((prediction - eps)^2)
    x0:   d = weight * (alpha/sigma)^2  * mean((prediction - x)^2)
    v:    d = weight * alpha^2          * mean((prediction - (alpha eps - sigma x))^2)

which is how they are computed: no difference of nearly equal numbers is divided by a small sigma, so x_t may be in
half precision, and nothing is converted or stored in between.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from smartfast.kernels.noise_forward import check_noise, check_per_image
from smartfast.kernels.score_noise import aten as reference
from smartfast.kernels.selection import dispatch, register

Parameterization = Literal["eps", "x0", "v"]


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
        impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        float32 [N], float64 if the prediction is.

    Raises:
        ValueError: Shapes or dtypes that do not fit; an unknown parameterization, or one that lacks x, alpha or sigma.
    """
    target = _target(prediction, stream, weight, parameterization, x, alpha, sigma)
    return dispatch(
        "denoise_distance", prediction.device, prediction, *target[:4], seed, purpose, target.weight, impl=impl
    )


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
    target = _target(prediction, stream, weight, parameterization, x, alpha, sigma)
    arguments = (prediction, *target[:4], seed, purpose, target.weight, overwrite)
    return dispatch("denoise_distance_and_gradient", prediction.device, *arguments, impl=impl)


class _Target(NamedTuple):
    """x_factor * x + noise_factor * eps, and the weight of the squares. Factors and weight None = 1."""

    x: Tensor | None
    x_factor: Tensor | None
    noise_factor: Tensor | None
    stream: Tensor | None
    weight: Tensor | None


def _target(
    prediction: Tensor,
    stream: Tensor,
    weight: Tensor | None,
    parameterization: str,
    x: Tensor | None,
    alpha: Tensor | None,
    sigma: Tensor | None,
) -> _Target:
    """What the prediction should be, from checked arguments."""
    check_noise(prediction, "prediction", stream)
    if weight is not None:
        check_per_image(weight, "weight", prediction)
    if parameterization not in ("eps", "x0", "v"):
        raise ValueError(f"parameterization is {parameterization!r}, expected eps, x0 or v")
    if parameterization == "eps":
        return _Target(None, None, None, stream, weight)
    if x is None or alpha is None or sigma is None:
        raise ValueError(f"x, alpha or sigma is None, expected all three for parameterization {parameterization!r}")
    if x.shape != prediction.shape or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected floating point {tuple(prediction.shape)}")
    check_per_image(alpha, "alpha", prediction)
    check_per_image(sigma, "sigma", prediction)
    scale = alpha / sigma if parameterization == "x0" else alpha
    weight = scale.square() if weight is None else weight * scale.square()
    if parameterization == "x0":
        return _Target(x, None, None, None, weight)
    return _Target(x, -sigma, alpha, stream, weight)


register("denoise_distance", "aten", reference.denoise_distance)
register("denoise_distance_and_gradient", "aten", reference.denoise_distance_and_gradient)
