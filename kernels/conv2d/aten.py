"""PyTorch's convolution; see op.py for why not the trio of triton.py."""

import torch.nn.functional as F
from torch import Tensor

from ..geometry import HALF
from ..selection import register
from .op import Convolution


def conv2d(x: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    """`kernels.conv2d`."""
    stride, padding, groups, transposed = convolution
    function = F.conv_transpose2d if transposed else F.conv2d
    if x.dtype in HALF and x.device.type == "cpu":
        return function(x.float(), weight.float(), stride=stride, padding=padding, groups=groups).to(x.dtype)
    return function(x, weight, stride=stride, padding=padding, groups=groups)


register("conv2d", "aten", conv2d)
