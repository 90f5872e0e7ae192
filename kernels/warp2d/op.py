"""Affine warps of images without aliasing: upsample twofold, look up bilinearly, downsample, reflected at the borders.

The warp of adaptive discriminator augmentation (Karras et al., "Training generative adversarial networks with limited
data", arXiv 2006.06676, appendix B). The image continues as its mirror image for one width and one height on each
side and is 0 beyond; with f the filter and A_n the map of image n from pixels of the result to pixels of x,

    up(x)   = upsample2d(mirrored(x), f)
    z[n, p] = up(x[n]) at 2 A_n(p / 2) - 1/2, bilinearly, on a grid of half pixels
    y       = downsample2d(z, f)

Linear in x: z is an op, `warp2d` together with its adjoint, so gradients have every order. None flows to A.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import check_images
from ..selection import dispatch, public
from ..upfirdn2d.op import downsample2d


class Grid(NamedTuple):
    """Points that an image is looked up at: twice the image's, and what the downsampling filter needs around them."""

    height: int
    width: int

    @classmethod
    def of(cls, x: Tensor, f: Tensor) -> "Grid":
        """For images [N, C, H, W] and a filter [k]."""
        margin = 2 * margin_of(f)
        return cls(2 * (x.shape[2] + margin), 2 * (x.shape[3] + margin))


def margin_of(f: Tensor) -> int:
    """Pixels that the filter reaches beyond an image on each side, at most."""
    return len(f) // 4


@public()
def warp2d(x: Tensor, matrix: Tensor, f: Tensor, *, impl: str | None = None) -> Tensor:
    """Warp images.

    Args:
        x: [N, C, H, W], any floating dtype; half precision is computed in float32.
        matrix: float32 or float64 [N, 2, 3], A_n: x and y of a pixel of the result (and 1) to those of x, in pixels
            from the image's centre. No gradient.
        f: float32 [k], a low-pass filter for twofold resampling, k a multiple of 4.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, C, H, W] in the dtype of x.

    Raises:
        ValueError: Shapes or dtypes that do not fit.
    """
    check_images(x)
    if matrix.dtype not in (torch.float32, torch.float64) or matrix.shape != (x.shape[0], 2, 3):
        raise ValueError(f"matrix is {matrix.dtype} {tuple(matrix.shape)}, expected float32 {(x.shape[0], 2, 3)}")
    if f.ndim != 1 or len(f) % 4 or len(f) == 0:
        raise ValueError(f"f has shape {tuple(f.shape)}, expected [k], k a multiple of 4")
    if 0 in x.shape[1:]:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected at least one channel and one pixel")
    z = dispatch("warp2d", x.device, x, lookup_matrix(matrix.detach(), x, f), f, impl=impl)
    y = downsample2d(z, f, padding=-2 * margin_of(f), flip_filter=True, impl=impl)
    return y.to(x.dtype)


def lookup_matrix(matrix: Tensor, x: Tensor, f: Tensor) -> Tensor:
    """[N, 2, 3] from column and row of the grid (and 1) to column and row in the upsampled x, all counted from 0."""
    height, width = x.shape[2:]
    margin = 2 * margin_of(f)
    linear, shift = matrix[:, :, :2], matrix[:, :, 2]
    middle = linear[:, :, 0] * (width + margin - 1) + linear[:, :, 1] * (height + margin - 1)
    offset = 2 * shift - middle
    offset = torch.stack([offset[:, 0] + (width - 1), offset[:, 1] + (height - 1)], dim=1)
    return torch.cat([linear, offset[:, :, None]], dim=2)
