"""The epilogue in PyTorch's own functions; each step rounds to the dtype of z, as layers made of single ops do."""

from torch import Tensor

from ..bias_act.aten import bias_act
from ..bias_act.op import Activation
from ..geometry import per_channel
from ..selection import register
from .op import Epilogue


def finish(z: Tensor, epilogue: Epilogue) -> Tensor:
    """`kernels.finish`."""
    demodulation, noise, bias, next_styles, activation = epilogue
    if demodulation is not None:
        z = z * per_channel(demodulation, z)
    if noise is not None:
        z = z + noise.to(z.dtype)
    if bias is not None or activation != Activation():
        z = bias_act(z, bias, 1, activation)
    return z if next_styles is None else z * per_channel(next_styles, z)


register("finish", "aten", finish)
