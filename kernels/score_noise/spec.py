"""The formulas of noising and of the distance, in the dtype of the images, with the noise eps [N, C, H, W] given."""

from torch import Tensor

from ..geometry import per_image


def noise_forward(x: Tensor, alpha: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """alpha * x + sigma * eps."""
    return per_image(alpha, x) * x + per_image(sigma, x) * eps.to(x.dtype)


def denoise_distance(prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """weight * mean((prediction - target)^2)."""
    distance = (prediction - target).square().mean(dim=[1, 2, 3])
    return distance if weight is None else weight.to(distance.dtype) * distance
