"""Sampling of a deformable 3x3 convolution (Zhu et al., arXiv 1811.11168)."""

import torch
from torch import Tensor

TAPS = 9


def deformable_columns(x: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
    """What each tap of a 3x3 convolution with padding 1 reads, at places that move; differentiable once.

    Places between pixels are interpolated bilinearly, pixels outside are 0. On a pixel, where the interpolation has a
    kink, a place has the slope toward the next row or column.

    Args:
        x: [N, C, H, W].
        offsets: [N, 18, H, W] in pixels: down and right of the first tap, of the second, and so on, row by row.
        mask: Factors of the taps, [N, 9, H, W].

    Returns:
        [N, C, 9, H * W], in the dtype of x.
    """
    n, c, h, w = x.shape
    tap = torch.arange(TAPS, device=x.device)[:, None, None]
    row = torch.arange(h, device=x.device)[:, None] + tap // 3 - 1
    column = torch.arange(w, device=x.device) + tap % 3 - 1
    y, y0, in_row = _place(row, offsets[:, 0::2], h)
    z, z0, in_column = _place(column, offsets[:, 1::2], w)
    pixels, total = x.flatten(2), x.new_zeros(())
    for down in (0, 1):
        for right in (0, 1):
            share = (y if down else 1 - y) * (z if right else 1 - z) * in_row[down] * in_column[right] * mask
            index = (y0 + down).clamp(0, h - 1) * w + (z0 + right).clamp(0, w - 1)
            read = pixels.gather(2, index.reshape(n, 1, -1).expand(-1, c, -1))
            total = total + read * share.reshape(n, 1, -1).to(x.dtype)
    return total.unflatten(2, (TAPS, h * w))


def _place(start: Tensor, offset: Tensor, size: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The fraction of a pixel, the pixel before, and whether that one and the next are inside."""
    # Bounded, so that no offset, however far, leaves the range of whole numbers.
    place = (start + offset).clamp(-2, size + 1)
    before = place.detach().floor()
    whole = before.to(torch.int64)
    inside = [((whole + step >= 0) & (whole + step < size)).to(offset.dtype) for step in (0, 1)]
    return place - before, whole, (inside[0], inside[1])
