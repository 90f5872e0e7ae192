"""The formula of `kernels.conv2d`, in the dtype of its arguments."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .op import Convolution


def conv2d(x: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    """Each output is the sum of its window times the weight; transposed: on x with zeros between samples."""
    stride, (pad_y, pad_x), groups, transposed = convolution
    if transposed:
        kh, kw = weight.shape[2:]
        spread = F.pad(x[:, :, :, None, :, None], (0, stride - 1, 0, 0, 0, stride - 1)).flatten(4).flatten(2, 3)
        x = F.pad(spread, (kw - 1 - pad_x, kw - stride - pad_x, kh - 1 - pad_y, kh - stride - pad_y))
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip([2, 3])
        stride = 1
    else:
        x = F.pad(x, (pad_x, pad_x, pad_y, pad_y))
    windows = x.unfold(2, weight.shape[2], stride).unfold(3, weight.shape[3], stride).unflatten(1, (groups, -1))
    return torch.einsum("ngchwij,gocij->ngohw", windows, weight.unflatten(0, (groups, -1))).flatten(1, 2)
