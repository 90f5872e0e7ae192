"""The formula of `kernels.finish`, in the dtype of its arguments."""

from torch import Tensor

from ..bias_act import spec
from .op import Epilogue


def finish(z: Tensor, epilogue: Epilogue) -> Tensor:
    """s * clamp(gain * act(d * z + noise + bias))."""
    d, noise, bias, s, activation = epilogue
    v = z if d is None else z * d[:, :, None, None].to(z.dtype)
    v = v if noise is None else v + noise
    y = spec.bias_act(v, bias, 1, activation)
    return y if s is None else y * s[:, :, None, None].to(z.dtype)
