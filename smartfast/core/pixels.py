"""Images as bytes 0..255 and as numbers in [-1, 1]."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images of any float dtype in about [-1, 1] as uint8 0..255, same shape; values outside are clamped."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Images uint8 0..255 as float32 in [-1, 1], same shape; 0 gives -1 and 255 gives 1 exactly.

    Images in floating point, as points of the plane are, stay as they are.

    Only the last multiplication rounds, so that every device and compiler gives the same bits: a division by 127.5 does
    not, some multiply by its reciprocal instead.
    """
    if images.is_floating_point():
        return images
    return (images.to(torch.float32) * 2 - 255) * (1 / 255)
