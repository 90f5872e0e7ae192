"""Noising and the distance to the noise in PyTorch's own functions, differentiable to every order.

Half precision is computed in float32; float64 stays float64.
"""

import math

import torch
from torch import Tensor

from ..geometry import per_image, wide
from ..philox.aten import noise_like
from ..selection import register
from .op import Target


def noise_forward(
    x: Tensor, alpha: Tensor, sigma: Tensor, seed: int, stream: Tensor, purpose: int, dtype: torch.dtype
) -> Tensor:
    """`kernels.noise_forward`."""
    x = wide(x)
    eps = noise_like(x, seed, stream, purpose)
    return (x * per_image(alpha, x) + eps * per_image(sigma, x)).to(dtype)


def denoise_distance(prediction: Tensor, target: Target, weight: Tensor | None) -> Tensor:
    """`kernels.denoise_distance` to a target."""
    distance = _residual(prediction, target).square().mean(dim=[1, 2, 3])
    return distance if weight is None else distance * weight.to(distance.dtype)


@torch.no_grad()
def denoise_distance_and_gradient(
    prediction: Tensor, target: Target, weight: Tensor | None, overwrite: bool
) -> tuple[Tensor, Tensor]:
    """`kernels.denoise_distance_and_gradient` to a target."""
    residual = _residual(prediction, target)
    distance = residual.square().mean(dim=[1, 2, 3])
    gradient = residual * (2 / math.prod(prediction.shape[1:]))
    if weight is not None:
        distance = distance * weight.to(distance.dtype)
        gradient = gradient * per_image(weight, gradient)
    return distance, prediction.copy_(gradient) if overwrite else gradient.to(prediction.dtype)


def _residual(prediction: Tensor, target: Target) -> Tensor:
    x, x_factor, noise_factor, stream, seed, purpose = target
    residual = wide(prediction)
    if x is not None:
        x = x.to(residual.dtype)
        residual = residual - (x if x_factor is None else x * per_image(x_factor, x))
    if stream is not None:
        eps = noise_like(residual, seed, stream, purpose)
        residual = residual - (eps if noise_factor is None else eps * per_image(noise_factor, eps))
    return residual


register("noise_forward", "aten", noise_forward)
register("denoise_distance", "aten", denoise_distance)
register("denoise_distance_and_gradient", "aten", denoise_distance_and_gradient)
