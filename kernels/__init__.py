"""The ops: one public function each, with a plain-PyTorch implementation and a Triton one.

`use(...)` or the environment variable SMARTFAST_KERNELS choose between them, `implementation_of` says which one runs.
"""

import importlib.util

from smartfast.kernels.bias_act.op import bias_act
from smartfast.kernels.conv2d.op import conv2d
from smartfast.kernels.conv2d_resample import conv2d_resample
from smartfast.kernels.explain import explain
from smartfast.kernels.modulated_conv2d import modulated_conv2d
from smartfast.kernels.noise_forward import noise_forward
from smartfast.kernels.philox.op import philox_normal, philox_uniform, philox_words
from smartfast.kernels.score_noise.op import denoise_distance, denoise_distance_and_gradient
from smartfast.kernels.selection import implementation_of, registered_ops, use
from smartfast.kernels.upfirdn2d.op import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

if importlib.util.find_spec("triton") is not None:
    import smartfast.kernels.triton_ops  # noqa: F401, registers the Triton implementations

__all__ = [
    "bias_act",
    "conv2d",
    "conv2d_resample",
    "denoise_distance",
    "denoise_distance_and_gradient",
    "downsample2d",
    "explain",
    "filter2d",
    "implementation_of",
    "modulated_conv2d",
    "noise_forward",
    "philox_normal",
    "philox_uniform",
    "philox_words",
    "registered_ops",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
    "use",
]
