"""The ops as Triton kernels; importing this package registers them. One file per op: kernels, op, derivatives."""

from smartfast.kernels.triton_ops import bias_act, modulated_conv2d, philox, score_noise, upfirdn2d

__all__ = ["bias_act", "modulated_conv2d", "philox", "score_noise", "upfirdn2d"]
