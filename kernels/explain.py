"""What an op would run, and why."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from smartfast.kernels.bias_act.op import bias_act, check_activation
from smartfast.kernels.conv2d_resample import aligned_padding, autocast, conv2d_resample
from smartfast.kernels.modulated_conv2d import modulated_conv2d
from smartfast.kernels.noise_forward import noise_forward
from smartfast.kernels.philox.op import philox_normal, philox_uniform
from smartfast.kernels.score_noise.op import denoise_distance, denoise_distance_and_gradient
from smartfast.kernels.selection import implementation_of
from smartfast.kernels.upfirdn2d.op import upfirdn2d

OPS: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        bias_act,
        conv2d_resample,
        denoise_distance,
        denoise_distance_and_gradient,
        modulated_conv2d,
        noise_forward,
        philox_normal,
        philox_uniform,
        upfirdn2d,
    )
}


def explain(op: str, *args: Any, **kwargs: Any) -> str:
    """Which implementation a call takes, which route inside it, and why; runs nothing.

    Args:
        op: Name of an op, one of `registered_ops()`.
        *args, **kwargs: Arguments of the op's public function, of which shapes, dtypes and devices are read.

    Returns:
        A line for the implementation and, where that has routes, one for the route.

    Raises:
        ValueError: No such op, or `impl` asks for an implementation that the op does not have.
        TypeError: Arguments that the op does not take.
    """
    if op not in OPS:
        raise ValueError(f"kernels.explain: found {op!r}, expected one of {', '.join(OPS)}")
    bound = inspect.signature(OPS[op]).bind(*args, **kwargs)
    bound.apply_defaults()
    device = next(value.device for value in bound.arguments.values() if isinstance(value, Tensor))
    name, reason = implementation_of(op, device, bound.arguments["impl"])
    line = f"{op} on {device.type}: {name} ({reason})"
    if name == "triton" and op == "modulated_conv2d":
        line += "\n" + _explain_route(**bound.arguments)
    return line


def _explain_route(
    x: Tensor,
    weight: Tensor,
    *,
    f: Tensor | None,
    up: int,
    down: int,
    padding: int | Sequence[int],
    act: str,
    alpha: float | None,
    gain: float,
    clamp: float | None,
    **_: Any,
) -> str:
    from smartfast.kernels.routes import ROUTES
    from smartfast.kernels.triton_ops.modulated_conv2d import route_of  # needs Triton

    x = autocast(x[:0])  # for the dtype that the op computes in; no sample, so nothing to compute
    pads = aligned_padding(f, up, down, padding)
    route = route_of(x, weight, up, down, pads, act, *check_activation(act, alpha, gain, clamp))
    return f"route {route.name}, {ROUTES[route.name]} ({route.reason})"
