"""DiffAugment (Zhao et al., arXiv 2006.10738): colour, translation, cutout, pure functions of images and draws."""

import torch
from torch import Tensor

from smartfast.core.draws import Purpose
from smartfast.kernels import philox_uniform

SHIFT, HOLE = 1 / 8, 1 / 2
"""Largest translation and side of the square that is cut out, in shares of the image."""
UNIFORMS = 10


class DiffAugmentation:
    """What stands before the discriminator; see `Augmentation`. Each transform is applied with probability p."""

    def __init__(self, p: Tensor, *, seed: int) -> None:
        self.p, self.seed = p, seed

    def __call__(self, images: Tensor, stream: Tensor, purpose: Purpose) -> Tensor:
        """Augment images [N, C, H, W] by their numbers int64 [N]."""
        draws = philox_uniform(self.seed, stream, UNIFORMS, int(purpose) + Purpose.CHOICES).to(images.dtype)
        gates, draws = (draws[:, :3] < self.p).unbind(dim=1), draws[:, 3:]
        images = torch.where(_per_image(gates[0]), recolored(images, *draws[:, :3].unbind(dim=1)), images)
        images = torch.where(_per_image(gates[1]), translated(images, draws[:, 3:5]), images)
        return torch.where(_per_image(gates[2]), with_hole(images, draws[:, 5:7]), images)


def recolored(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Images [N, C, H, W] by uniform draws [N]: -1/2 to 1/2 is added, saturation times 0 to 2, contrast 1/2 to 3/2."""
    images = images + _per_image(brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * _per_image(2 * saturation) + grey
    mean = images.mean(dim=[1, 2, 3], keepdim=True)
    return (images - mean) * _per_image(contrast + 0.5) + mean


def translated(images: Tensor, uniform: Tensor) -> Tensor:
    """Images moved by whole pixels, up to SHIFT to either side, 0 where nothing comes from; uniform [N, 2] (x, y)."""
    for axis, dim in ((0, 3), (1, 2)):
        size = images.shape[dim]
        most = int(size * SHIFT + 0.5)
        shift = (uniform[:, axis] * (2 * most + 1)).floor().to(torch.int64) - most
        source = torch.arange(size, device=images.device) - shift[:, None]
        exists = (source >= 0) & (source < size)
        view = (-1, 1, 1, size) if dim == 3 else (-1, 1, size, 1)
        moved = images.gather(dim, source.clamp(0, size - 1).view(view).expand_as(images))
        images = moved * exists.view(view)
    return images


def with_hole(images: Tensor, uniform: Tensor) -> Tensor:
    """Images with 0 in a square, HOLE wide, about a pixel that is drawn by uniform [N, 2] (x, y)."""
    x, y = (_covered(uniform[:, axis, None], size) for axis, size in ((0, images.shape[3]), (1, images.shape[2])))
    return images * ~(x[:, None, None, :] & y[:, None, :, None])


def _covered(uniform: Tensor, size: int) -> Tensor:
    """Whether each pixel of an axis lies in the square, bool [N, size], by uniform [N, 1]."""
    side = int(size * HOLE + 0.5)
    first = (uniform * (size + 1 - side % 2)).floor() - side // 2
    place = torch.arange(size, device=uniform.device)
    return (place >= first) & (place < first + side)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
