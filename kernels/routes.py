"""Which way a modulated convolution is computed: the fastest that was measured, else the default.

What this machine measured (`smartfast.kernels.tune`) counts before routes.json, which holds one row per shape:
{"capability": "9.0", "dtype": "bfloat16", "kernel_size": 3, "in_channels": 512, "out_channels": 512, "resolution": 32,
"microseconds": {"library": 98.0, "gemm": 103.5}}. Capability is the GPU's compute capability, or "cpu"; resolution is
the height of the images that the convolution reads.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bias_act.op import Activation
from .conv2d.op import Convolution
from .selection import switched_off

ROUTES = {
    "library": "scaled activations, PyTorch's convolution (cuDNN on a GPU), one fused kernel behind it",
    "gemm": "scaled activations, one Triton kernel for the convolution and what follows it",
    "aten": "scaled activations, PyTorch's convolution, PyTorch's own functions behind it",
}
DEFAULT_ROUTE = "library"
FILE = Path(__file__).with_name("routes.json")
FIELDS = ("capability", "dtype", "kernel_size", "in_channels", "out_channels", "resolution")


class Route(NamedTuple):
    """A way to compute, one of `ROUTES`, and why it was chosen."""

    name: str
    reason: str


def load_routes(file: Path = FILE) -> dict[tuple[Any, ...], Route]:
    """The fastest route of every shape that was measured, by the values of `FIELDS`.

    Raises:
        ValueError: The file has a row that lacks a field or names an unknown route.
    """
    table = {}
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        times = row.get("microseconds", {})
        if set(row) != {*FIELDS, "microseconds"} or not times or not set(times) <= set(ROUTES):
            raise ValueError(
                f"{file}: found the row {row}, expected the fields {', '.join(FIELDS)} and microseconds, "
                f"for some of the routes {', '.join(ROUTES)}"
            )
        reason = "measured: " + ", ".join(f"{route} {time:g} us" for route, time in times.items())
        table[tuple(row[field] for field in FIELDS)] = Route(min(times, key=times.__getitem__), reason)
    return table


_table = load_routes()
_noting: bool | None = None  # whether every route is noted, None where none is


@contextmanager
def routes_noted(*, everywhere: bool) -> Iterator[None]:
    """Have aten take the routes of Triton, so that their calls are noted; with `everywhere` gemm wherever it can."""
    global _noting
    outer, _noting = _noting, everywhere
    try:
        yield
    finally:
        _noting = outer


def routes_are_noted() -> bool:
    """Whether this is inside of `routes_noted`."""
    return _noting is not None


def take_routes(measured: Mapping[tuple[Any, ...], Route]) -> None:
    """Have convolutions take routes that were measured here, by the values of `FIELDS`, in this process."""
    _table.update(measured)


def shape_of(
    device: torch.device, dtype: torch.dtype, kernel_size: int, in_channels: int, out_channels: int, resolution: int
) -> tuple[Any, ...]:
    """The values of `FIELDS` of a convolution."""
    return (_capability(device), str(dtype).removeprefix("torch."), kernel_size, in_channels, out_channels, resolution)


def measured_shapes() -> int:
    """Number of shapes that the table holds."""
    return len(_table)


def measured_route(
    device: torch.device, dtype: torch.dtype, kernel_size: int, in_channels: int, out_channels: int, resolution: int
) -> Route:
    """The route of a shape that every route can compute."""
    key = shape_of(device, dtype, kernel_size, in_channels, out_channels, resolution)
    return _table.get(key) or Route(DEFAULT_ROUTE, f"the default: this shape was not measured on {key[0]}")


def route_of(x: Tensor, weight: Tensor, convolution: Convolution, activation: Activation) -> Route:
    """The route of a convolution with an epilogue, and why; reads only shapes, dtype and device."""
    obstacle = _gemm_obstacle(x, weight, convolution, activation)
    if obstacle is not None:
        return Route("library", f"gemm does not do {obstacle}")
    if _noting:
        return Route("gemm", "noted")
    if "conv_gemm" in switched_off():
        return Route("library", "gemm is switched off")
    return measured_route(x.device, x.dtype, weight.shape[2], weight.shape[1], weight.shape[0], x.shape[2])


def _gemm_obstacle(x: Tensor, weight: Tensor, convolution: Convolution, activation: Activation) -> str | None:
    """What of a call the gemm route cannot compute, None if nothing."""
    kh, kw = weight.shape[2:]
    if (kh, kw) not in ((1, 1), (3, 3)):
        return f"a kernel of {kh}x{kw}"
    if convolution._replace(padding=(0, 0)) != Convolution():
        return "strides or groups"
    if convolution.padding != (kh // 2, kw // 2):
        return "padding that changes the size"
    if x.dtype == torch.float64:
        return "float64"
    act, alpha, gain, _ = activation
    if act in ("linear", "relu", "lrelu") and (gain <= 0 or alpha < 0):
        return f"a gain of {gain:g} with an alpha of {alpha:g}"
    return None


@torch.compiler.assume_constant_result  # torch.compile cannot trace a question to the driver
def _capability(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"
