"""The look-up of `kernels.warp2d` in PyTorch's own functions, differentiable to every order on every version.

The mirrored image is upsampled whole, nine times its own area; PyTorch's grid_sample is faster than four gathers, but
differentiable twice only on newer versions. On a GPU its adjoint adds up in an order that changes from call to call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import wide
from ..selection import register
from ..upfirdn2d.aten import upfirdn2d
from ..upfirdn2d.op import Resampling, upsample_padding
from .op import Grid


def warp2d(x: Tensor, lookup: Tensor, f: Tensor) -> Tensor:
    """z of op.py; `lookup` is that of `lookup_matrix`."""
    (n, c, height, width), grid = x.shape, Grid.of(x, f)
    mirrored = F.pad(wide(x), (width - 1, width - 1, height - 1, height - 1), mode="reflect")
    up = upfirdn2d(mirrored, f, Resampling(up=(2, 2), pads=upsample_padding(f, 2, 2), gain=4.0))
    size = up.shape[2:]
    up = up.flatten(2)
    column = torch.arange(grid.width, device=x.device, dtype=lookup.dtype)
    row = torch.arange(grid.height, device=x.device, dtype=lookup.dtype)[:, None]
    u, v = (
        lookup[:, axis, 0, None, None] * column + lookup[:, axis, 1, None, None] * row + lookup[:, axis, 2, None, None]
        for axis in (0, 1)
    )
    z = up.new_zeros(n, c, grid.height * grid.width)
    for y, weight_y in _neighbours(v + 2 * (height - 1), size[0]):
        for x_, weight_x in _neighbours(u + 2 * (width - 1), size[1]):
            at = (y * size[1] + x_).flatten(1)[:, None].expand(-1, c, -1)
            z = z + up.gather(2, at) * (weight_y * weight_x).flatten(1)[:, None].to(up.dtype)
    return z.unflatten(2, grid)


def _neighbours(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two samples beside each place of an axis: their int64 indices within it, and weights, 0 outside it."""
    first = at.floor()
    fraction = at - first
    places = ((first, 1 - fraction), (first + 1, fraction))
    return [
        (i.clamp(0, size - 1).to(torch.int64), torch.where((i >= 0) & (i < size), weight, 0)) for i, weight in places
    ]


register("warp2d", "aten", warp2d)
