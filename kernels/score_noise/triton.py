"""`kernels.noise_forward` and `kernels.denoise_distance` by Triton, to any order of derivative.

The gradient of the mean of squares is the residual scaled, and the gradient of that is an image scaled: four ops,
closed under differentiation, with plain PyTorch for the sums per image that the gradients of factors [N] need. An op
that is followed by a backward pass saves its images and draws the noise again: for half precision that moves 2 bytes
per element forward and 4 backward, where a gradient written forward, to be scaled backward, would move 4 and 4. Who
knows the upstream gradient beforehand takes `denoise_distance_and_gradient`, which moves 4 in all.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..geometry import per_image, wide
from ..philox.aten import noise_like
from ..philox.op import signed
from ..selection import register
from .kernels import empty_like, has_one_stride, launch_score_noise
from .op import Target

# x_t = alpha * x + sigma * eps, and its derivative: images times a factor


def launch_noise_forward(
    x: Tensor, alpha: Tensor, sigma: Tensor, stream: Tensor, seed: int, purpose: int, dtype: torch.dtype
) -> Tensor:
    y = empty_like(x, dtype)
    launch_score_noise(Target(x, alpha, sigma, stream, seed, purpose), None, y, None, sums=False)
    return y


def launch_scale_images(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    y = empty_like(x, dtype)
    launch_score_noise(Target(x, factor, None, None, 0, 0), None, y, None, sums=False)
    return y


@torch.library.custom_op("smartfast::noise_forward", mutates_args=())
def noise_forward_op(
    x: Tensor, alpha: Tensor, sigma: Tensor, stream: Tensor, seed: int, purpose: int, dtype: torch.dtype
) -> Tensor:
    return launch_noise_forward(x, alpha, sigma, stream, seed, purpose, dtype)


@noise_forward_op.register_fake
def _(x: Tensor, alpha: Tensor, sigma: Tensor, stream: Tensor, seed: int, purpose: int, dtype: torch.dtype) -> Tensor:
    return empty_like(x, dtype)


@torch.library.custom_op("smartfast::scale_images", mutates_args=())
def scale_images_op(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return launch_scale_images(x, factor, dtype)


@scale_images_op.register_fake
def _(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return empty_like(x, dtype)


def _dot(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """One sum of products per image, in the dtype of `like`."""
    return (wide(a) * wide(b)).sum(dim=[1, 2, 3]).to(like.dtype)


def _noise_forward_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, alpha, sigma, stream, ctx.seed, ctx.purpose, _ = inputs
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, alpha, sigma, stream)


def _noise_forward_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, alpha, sigma, stream = ctx.saved_tensors
    for_x, for_alpha, for_sigma = ctx.needs_input_grad[:3]
    return (
        scale_images_op(dy, alpha, ctx.x_dtype) if for_x else None,
        _dot(dy, x, alpha) if for_alpha else None,
        _dot(dy, noise_like(wide(dy), ctx.seed, stream, ctx.purpose), sigma) if for_sigma else None,
        *(None,) * 4,
    )


def _scale_images_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, factor, _ = inputs
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, factor)


def _scale_images_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, factor = ctx.saved_tensors
    for_x, for_factor, _ = ctx.needs_input_grad
    return (
        scale_images_op(dy, factor, ctx.x_dtype) if for_x else None,
        _dot(dy, x, factor) if for_factor else None,
        None,
    )


noise_forward_op.register_autograd(_noise_forward_backward, setup_context=_noise_forward_context)
scale_images_op.register_autograd(_scale_images_backward, setup_context=_scale_images_context)


def noise_forward(
    x: Tensor, alpha: Tensor, sigma: Tensor, seed: int, stream: Tensor, purpose: int, dtype: torch.dtype
) -> Tensor:
    """`kernels.noise_forward`."""
    return noise_forward_op(x, alpha, sigma, stream, signed(seed), purpose, dtype)


# mean((prediction - target)^2), and its derivative: y_factor * (prediction - target)


def launch_denoise_distance(prediction: Tensor, target: Target) -> Tensor:
    return _mean(launch_score_noise(target, prediction, None, None, sums=True), prediction)


def launch_denoise_residual(prediction: Tensor, target: Target, factor: Tensor, dtype: torch.dtype) -> Tensor:
    y = empty_like(prediction, dtype)
    launch_score_noise(target, prediction, y, factor, sums=False)
    return y


def launch_denoise_distance_and_gradient(
    prediction: Tensor, target: Target, factor: Tensor, overwrite: bool
) -> tuple[Tensor, Tensor]:
    """The mean square and factor * (prediction - target), in the memory of `prediction` if asked."""
    y = prediction if overwrite and has_one_stride(prediction) else empty_like(prediction, prediction.dtype)
    distance = _mean(launch_score_noise(target, prediction, y, factor, sums=True), prediction)
    return distance, prediction.copy_(y) if overwrite and y is not prediction else y


def _mean(sums: Tensor | None, images: Tensor) -> Tensor:
    assert sums is not None
    return sums.sum(dim=1) / math.prod(images.shape[1:])


@torch.library.custom_op("smartfast::denoise_distance", mutates_args=())
def denoise_distance_op(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
) -> Tensor:
    return launch_denoise_distance(prediction, Target(x, x_factor, noise_factor, stream, seed, purpose))


@denoise_distance_op.register_fake
def _(prediction: Tensor, *target: Any) -> Tensor:
    return prediction.new_empty(prediction.shape[0], dtype=_sum_dtype(prediction))


def _sum_dtype(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)


@torch.library.custom_op("smartfast::denoise_residual", mutates_args=())
def denoise_residual_op(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
    factor: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    target = Target(x, x_factor, noise_factor, stream, seed, purpose)
    return launch_denoise_residual(prediction, target, factor, dtype)


@denoise_residual_op.register_fake
def _(prediction: Tensor, *arguments: Any) -> Tensor:
    return empty_like(prediction, arguments[-1])


def _distance_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.seed, ctx.purpose = inputs
    ctx.save_for_backward(*tensors)


def _distance_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    prediction, x, x_factor, noise_factor, stream = ctx.saved_tensors
    target = (x, x_factor, noise_factor, stream, ctx.seed, ctx.purpose)
    factor = upstream * (2 / math.prod(prediction.shape[1:]))
    for_prediction, *for_target = ctx.needs_input_grad
    d_prediction = denoise_residual_op(prediction, *target, factor, prediction.dtype) if for_prediction else None
    d_x = None
    if for_target[0]:
        d_x = denoise_residual_op(prediction, *target, -factor * (1 if x_factor is None else x_factor), x.dtype)
    d_factors: tuple[Tensor | None, ...] = (None, None)
    if for_target[1] or for_target[2]:
        dy = denoise_residual_op(prediction, *target, -factor, factor.dtype)
        d_factors = _factor_gradients(ctx, dy, x, x_factor, noise_factor, stream)
    return d_prediction, d_x, *d_factors, None, None, None


def _factor_gradients(
    ctx: Any, dy: Tensor, x: Tensor, x_factor: Tensor, noise_factor: Tensor, stream: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the target's factors [N], where dy is the gradient of the target."""
    _, _, for_x_factor, for_noise_factor = ctx.needs_input_grad[:4]
    return (
        _dot(dy, x, x_factor) if for_x_factor else None,
        _dot(dy, noise_like(dy, ctx.seed, stream, ctx.purpose), noise_factor) if for_noise_factor else None,
    )


def _residual_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.seed, ctx.purpose, factor, _ = inputs
    ctx.save_for_backward(*tensors, factor)


def _residual_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    prediction, x, x_factor, noise_factor, stream, factor = ctx.saved_tensors
    target = (x, x_factor, noise_factor, stream, ctx.seed, ctx.purpose)
    needs = ctx.needs_input_grad
    d_prediction = scale_images_op(dy, factor, prediction.dtype) if needs[0] else None
    d_x = scale_images_op(dy, -factor * (1 if x_factor is None else x_factor), x.dtype) if needs[1] else None
    d_factors: tuple[Tensor | None, ...] = (None, None)
    if needs[2] or needs[3]:
        d_factors = _factor_gradients(ctx, wide(dy) * per_image(-factor, wide(dy)), x, x_factor, noise_factor, stream)
    d_factor = None
    if needs[7]:
        residual = denoise_residual_op(prediction, *target, torch.ones_like(factor), factor.dtype)
        d_factor = _dot(dy, residual, factor)
    return d_prediction, d_x, *d_factors, None, None, None, d_factor, None


denoise_distance_op.register_autograd(_distance_backward, setup_context=_distance_context)
denoise_residual_op.register_autograd(_residual_backward, setup_context=_residual_context)


def denoise_distance(prediction: Tensor, target: Target, weight: Tensor | None) -> Tensor:
    """`aten.denoise_distance`."""
    distance = denoise_distance_op(prediction, *target._replace(seed=signed(target.seed)))
    return distance if weight is None else distance * weight.to(distance.dtype)


@torch.library.custom_op("smartfast::denoise_distance_and_gradient", mutates_args=())
def distance_and_gradient_op(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
    factor: Tensor,
) -> tuple[Tensor, Tensor]:
    target = Target(x, x_factor, noise_factor, stream, seed, purpose)
    return launch_denoise_distance_and_gradient(prediction, target, factor, overwrite=False)


@distance_and_gradient_op.register_fake
def _(prediction: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    distance = prediction.new_empty(prediction.shape[0], dtype=_sum_dtype(prediction))
    return distance, empty_like(prediction, prediction.dtype)


@torch.library.custom_op("smartfast::denoise_distance_and_gradient_", mutates_args={"prediction"})
def distance_and_gradient_in_place_op(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
    factor: Tensor,
) -> Tensor:
    target = Target(x, x_factor, noise_factor, stream, seed, purpose)
    return launch_denoise_distance_and_gradient(prediction, target, factor, overwrite=True)[0]


@distance_and_gradient_in_place_op.register_fake
def _(prediction: Tensor, *arguments: Any) -> Tensor:
    return prediction.new_empty(prediction.shape[0], dtype=_sum_dtype(prediction))


def denoise_distance_and_gradient(
    prediction: Tensor, target: Target, weight: Tensor | None, overwrite: bool
) -> tuple[Tensor, Tensor]:
    """`aten.denoise_distance_and_gradient`; nothing requires a gradient."""
    if weight is None:
        weight = torch.ones(prediction.shape[0], dtype=_sum_dtype(prediction), device=prediction.device)
    weight = weight.to(_sum_dtype(prediction))
    factor = weight * (2 / math.prod(prediction.shape[1:]))
    arguments = (prediction, *target._replace(seed=signed(target.seed)), factor)
    if overwrite:
        return distance_and_gradient_in_place_op(*arguments) * weight, prediction
    distance, gradient = distance_and_gradient_op(*arguments)
    return distance * weight, gradient


register("noise_forward", "triton", noise_forward)
register("denoise_distance", "triton", denoise_distance)
register("denoise_distance_and_gradient", "triton", denoise_distance_and_gradient)
