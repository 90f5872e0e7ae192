"""The formula of `kernels.upfirdn2d`, in the dtype of x."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .op import Resampling


def upfirdn2d(x: Tensor, f: Tensor | None, resampling: Resampling) -> Tensor:
    """y = (f * pad(zero_insert(x, up)))[::down] * gain, a sum over the window of each pixel that is kept."""
    (up_x, up_y), (down_x, down_y), pads, flip_filter, gain = resampling
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = f if flip_filter else f.flip([0, 1])
    n, c, h, w = x.shape
    padded = F.pad(x[:, :, :, None, :, None], (0, up_x - 1, 0, 0, 0, up_y - 1)).reshape(n, c, h * up_y, w * up_x)
    padded = F.pad(padded, [max(p, 0) for p in pads])
    cropped = F.pad(padded, [min(p, 0) for p in pads])
    windows = cropped.unfold(2, f.shape[0], down_y).unfold(3, f.shape[1], down_x)
    return torch.einsum("nchwij,ij->nchw", windows, f) * gain
