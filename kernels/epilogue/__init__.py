"""What follows a convolution in StyleGAN2's layers."""

from . import aten as aten  # registers it
