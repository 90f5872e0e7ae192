"""The ops: one public function each, implemented in plain PyTorch (aten) and in Triton.

`use(...)` or the environment variable SMARTFAST_KERNELS choose between them, `implementation_of` and `explain` say
which one runs. Nothing here knows what the ops are used for.
"""

import importlib
import importlib.util

from .bias_act.op import ACTIVATIONS, Activation, bias_act
from .composite import DEMODULATION_EPS, conv2d_resample, limit_styles, modulated_conv2d
from .conv2d.op import conv2d
from .epilogue.op import Epilogue, finish
from .geometry import memory_format
from .grouped_linear.op import grouped_linear
from .l2_attention.op import l2_attention
from .philox.aten import noise_like, philox_words
from .philox.op import philox_normal, philox_uniform
from .routes import DEFAULT_ROUTE, ROUTES, Route, measured_route, measured_shapes
from .score_noise.op import denoise_distance, denoise_distance_and_gradient, noise_forward
from .selection import INTERPRETED, explain, implementation_of, registered_ops, switch_off, switched_off, use
from .upfirdn2d.op import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from .warp2d.op import warp2d

if importlib.util.find_spec("triton") is not None:
    for _module in (
        "philox",
        "bias_act",
        "epilogue",
        "upfirdn2d",
        "conv2d",
        "score_noise",
        "warp2d",
        "grouped_linear",
        "l2_attention",
    ):
        importlib.import_module(f".{_module}.triton", __name__)  # registers its ops
    importlib.import_module(".conv2d.gemm", __name__)

__all__ = [
    "ACTIVATIONS",
    "DEFAULT_ROUTE",
    "DEMODULATION_EPS",
    "INTERPRETED",
    "ROUTES",
    "Activation",
    "Epilogue",
    "Route",
    "bias_act",
    "conv2d",
    "conv2d_resample",
    "denoise_distance",
    "denoise_distance_and_gradient",
    "downsample2d",
    "explain",
    "filter2d",
    "finish",
    "grouped_linear",
    "implementation_of",
    "l2_attention",
    "limit_styles",
    "measured_route",
    "measured_shapes",
    "memory_format",
    "modulated_conv2d",
    "noise_forward",
    "noise_like",
    "philox_normal",
    "philox_uniform",
    "philox_words",
    "registered_ops",
    "setup_filter",
    "switch_off",
    "switched_off",
    "upfirdn2d",
    "upsample2d",
    "use",
    "warp2d",
]
