"""Bias, activation, gain and clamp in one op.

    y = clamp(gain * act(x + b), -clamp, clamp)

Gradients flow to x and b, to second order and beyond (activations with a kink have the second derivative 0 there).
"""

from math import sqrt
from typing import NamedTuple

from torch import Tensor

from ..geometry import check_integer
from ..selection import dispatch, public


class Activation(NamedTuple):
    """clamp(gain * act(v), -clamp, clamp) with all numbers given; the default is the identity.

    alpha: Slope of lrelu below zero. clamp: None = none.
    """

    act: str = "linear"
    alpha: float = 0.0
    gain: float = 1.0
    clamp: float | None = None


ACTIVATIONS = {
    "linear": Activation("linear"),
    "relu": Activation("relu", gain=sqrt(2)),
    "lrelu": Activation("lrelu", alpha=0.2, gain=sqrt(2)),
    "tanh": Activation("tanh"),
    "sigmoid": Activation("sigmoid"),
    "elu": Activation("elu"),
    "selu": Activation("selu"),
    "softplus": Activation("softplus"),
    "swish": Activation("swish", gain=sqrt(2)),
}
"""With the gain that keeps the second moment of a unit normal."""


@public()
def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Add a bias, apply an activation, scale and clamp.

    Args:
        x: Any shape and floating dtype; half precision is computed in float32.
        b: [x.shape[dim]] or None.
        dim: Dimension of x that b belongs to.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: Slope of lrelu for negative inputs; None = 0.2.
        gain: Factor after the activation; None = sqrt(2) for relu, lrelu and swish, else 1.
        clamp: Largest magnitude of the result; None = no clamp.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        Shape and dtype of x.

    Raises:
        ValueError: x of another dtype, an unknown activation, a dim that is no integer, a bias of the wrong shape, or
            a negative clamp.
    """
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}, expected a floating dtype")
    check_integer(dim, "dim")
    activation = make_activation(act, alpha, gain, clamp)
    if b is not None and (x.ndim == 0 or not -x.ndim <= dim < x.ndim or b.shape != (x.shape[dim],)):
        raise ValueError(f"b has shape {tuple(b.shape)}, expected the size of dimension {dim} of x {tuple(x.shape)}")
    return dispatch("bias_act", x.device, x, b, dim, activation, impl=impl)


def make_activation(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> Activation:
    """An activation with its own alpha and gain where None is given.

    Raises:
        ValueError: An unknown activation or a negative clamp.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp is {clamp}, expected a number of at least 0 or None")
    usual = ACTIVATIONS[act]
    return Activation(act, usual.alpha if alpha is None else alpha, usual.gain if gain is None else gain, clamp)
