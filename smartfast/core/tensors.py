"""Weights from files: what the header of a file says of them, and what they must be before they are used."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

Shape = tuple[int, ...]
AnyModule = TypeVar("AnyModule", bound=nn.Module)

_FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""By the names that safetensors has for them."""


def weight_shapes(file: Path) -> dict[str, Shape]:
    """Shapes of the weights in a safetensors file by name; reads its header alone.

    Raises:
        ValueError: One of them is not of floating-point numbers, and no lone number: batch norm counts its batches.
        OSError, SafetensorError: There is no such file, or it is damaged.
    """
    shapes = {}
    with safe_open(file, "pt") as content:
        for name in content.keys():
            part = content.get_slice(name)
            shapes[name] = tuple(part.get_shape())
            _check_kind(name, part.get_dtype(), part.get_dtype() in _FLOATING or not shapes[name])
    return shapes


def check_floating(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all tensors but lone numbers, such as batch norm's counter, are of floating point."""
    for name, values in tensors.items():
        is_floating = values.dtype in _FLOATING.values() or values.ndim == 0
        _check_kind(name, str(values.dtype).removeprefix("torch."), is_floating)


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all tensors hold floating-point numbers that are finite."""
    check_floating(tensors)
    for name, values in tensors.items():
        if not values.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")


def _check_kind(name: str, kind: str, is_floating: bool) -> None:
    if not is_floating:
        raise ValueError(f"{name} is {kind}, expected floating-point numbers of 16, 32 or 64 bits")


def without_memory(build: Callable[[], AnyModule], shapes: Mapping[str, Shape]) -> AnyModule:
    """The network that `build` makes, on the meta device, where it is one for weights of these shapes.

    A few bytes of options can ask for more memory than there is, or for layers without end.

    Args:
        build: Makes the network.
        shapes: Of the weights by name.

    Raises:
        ValueError: The network has more tensors, or others.
        What `build` raises.
    """
    with torch.device("meta"), _at_most(2 * len(shapes)):
        try:
            network = build()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise ValueError("a tensor is too large for any memory, expected those of the weights") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in [*wanted, *shapes]:
        found, expected = shapes.get(name, "missing"), wanted.get(name, "none")
        if found != expected:
            raise ValueError(f"{name} is {found}, expected {expected}")
    return network


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raises ValueError where modules that are built inside get more parameters, of which some may replace others."""
    left = count

    def taken(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= parameter is not None
        if left < 0:
            raise ValueError("the network has more tensors than the weights, expected the same")

    handle = register_module_parameter_registration_hook(taken)
    try:
        yield
    finally:
        handle.remove()
