"""Importing this package registers the Triton implementations."""

from smartfast.kernels.bias_act import triton as bias_act
from smartfast.kernels.philox import triton as philox
from smartfast.kernels.score_noise import triton as score_noise
from smartfast.kernels.triton_ops import modulated_conv2d
from smartfast.kernels.upfirdn2d import triton as upfirdn2d

__all__ = ["bias_act", "modulated_conv2d", "philox", "score_noise", "upfirdn2d"]
