"""The affine map of an augmentation between colours."""

import math

import torch
from torch import Tensor

from smartfast.augment.transforms import Transforms

RGB = 3


def has_colors(transforms: Transforms) -> bool:
    """Whether any colour changes."""
    return any(value is not None for value in transforms[8:13])


def recolor(images: Tensor, transforms: Transforms) -> Tensor:
    """Images [N, C, H, W] after the five transforms of colours: grey, RGB, or either with alpha, which stays."""
    linear, offset = (value.to(images.dtype) for value in color_map(transforms))
    colors = RGB if images.shape[1] >= RGB else 1
    if colors == 1:  # grey is what remains of the map where red, green and blue are equal, seen as grey
        linear, offset = linear.sum(dim=2).mean(dim=1)[:, None, None], offset.mean(dim=1)[:, None]
    changed = (linear @ images[:, :colors].flatten(2) + offset[:, :, None]).unflatten(2, images.shape[2:])
    return changed if colors == images.shape[1] else torch.cat([changed, images[:, colors:]], dim=1)


def color_map(transforms: Transforms) -> tuple[Tensor, Tensor]:
    """Matrices [N, 3, 3] and what is added after them [N, 3]."""
    t = transforms
    like = next(value for value in t[8:13] if value is not None)
    identity = torch.eye(RGB, dtype=like.dtype, device=like.device)
    luma = torch.full_like(identity, 1 / RGB)  # projects on the grey axis
    linear = identity.expand(len(like), RGB, RGB)
    offset = like.new_zeros(len(like), RGB)
    if t.brightness is not None:
        offset = offset + t.brightness[:, None]
    if t.contrast is not None:
        linear, offset = linear * t.contrast[:, None, None], offset * t.contrast[:, None]
    steps = []
    if t.inverted is not None:
        steps.append(identity - 2 * luma * t.inverted[:, None, None])
    if t.hue is not None:
        steps.append(_turn_about_grey(t.hue, identity, luma))
    if t.saturation is not None:
        steps.append(luma + (identity - luma) * t.saturation[:, None, None])
    for step in steps:
        linear, offset = step @ linear, (step @ offset[:, :, None])[:, :, 0]
    return linear, offset


def _turn_about_grey(radians: Tensor, identity: Tensor, luma: Tensor) -> Tensor:
    """Rotations about the grey axis [N, 3, 3], by Rodrigues' formula."""
    cosine, sine = radians.cos()[:, None, None], radians.sin()[:, None, None]
    shift = identity.roll(1, dims=0)
    cross = (shift - shift.T) / math.sqrt(RGB)  # v x (.) of the unit vector v along the grey axis
    return luma + (identity - luma) * cosine + cross * sine
