"""What follows a convolution in StyleGAN2's layers, in one step.

    y = s[n, c] * clamp(gain * act(d[n, c] * z + noise[n, h, w] + bias[c])),      s = the next layer's styles, or 1

Gradients flow to all five tensors, to every order.
"""

from typing import NamedTuple

from torch import Tensor

from ..bias_act.op import Activation
from ..geometry import check_images
from ..selection import dispatch, public


class Epilogue(NamedTuple):
    """What follows a convolution; the default is nothing.

    demodulation, next_styles: [N, C], any floating dtype, or None. noise: [N, 1, H, W], or [H, W] for all samples, or
    None. bias: [C] or None.
    """

    demodulation: Tensor | None = None
    noise: Tensor | None = None
    bias: Tensor | None = None
    next_styles: Tensor | None = None
    activation: Activation = Activation()

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        return self[:4]


@public()
def finish(z: Tensor, epilogue: Epilogue, *, impl: str | None = None) -> Tensor:
    """Demodulate, add noise and bias, activate, scale and clamp, and apply the next layer's styles.

    Args:
        z: [N, C, H, W], any floating dtype.
        epilogue: What to do.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        Shape and dtype of z; NHWC if z is stored so.

    Raises:
        ValueError: A tensor of another shape, or z of another dtype.
    """
    check_images(z, "z")
    check_epilogue(epilogue, *z.shape)
    return dispatch("finish", z.device, z, epilogue, impl=impl)


def check_epilogue(epilogue: Epilogue, n: int, c: int, h: int, w: int) -> None:
    """Check that an epilogue fits images [n, c, h, w].

    Raises:
        ValueError: A tensor of another shape.
    """
    shapes: dict[str, list[tuple[int, ...]]] = dict(
        demodulation=[(n, c)], noise=[(n, 1, h, w), (h, w)], bias=[(c,)], next_styles=[(n, c)]
    )
    for (name, expected), tensor in zip(shapes.items(), epilogue.tensors, strict=True):
        # Tuples of unequal lengths compare their first elements too, which would bind a traced batch to a height.
        if tensor is not None and tuple(tensor.shape) not in [s for s in expected if len(s) == tensor.ndim]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {' or '.join(map(str, expected))}")
