"""Follow code on meta tensors down to what reaches the device: kernel launches and PyTorch's own operations.

Meta tensors have shapes and strides and no data, so that any layer of any network is traced in milliseconds without
a GPU. The bodies of the project's custom ops run inside `record_launches`, which notes their Triton kernels instead of
starting them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from smartfast.kernels.geometry import memory_format
from smartfast.kernels.triton_ops import runtime

# Operations that write a tensor without reading the one they take its shape from, or the one they write to.
_WRITE_ONLY = {"copy_", "fill_", "zero_", "normal_", "uniform_", "zeros_like", "ones_like", "full_like", "new_zeros"}
_CONVOLUTIONS = {"aten::convolution", "aten::convolution_backward"}
_ALLOCATION = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Traffic(NamedTuple):
    """What one launch or operation reads from and writes to memory, in bytes, every tensor once."""

    name: str
    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


class Trace(TorchDispatchMode):
    """Collects what the code inside the `with` block runs; its tensors must be of the meta device.

    launches: Kernel launches. traffic: Of the launches and of PyTorch's operations; views and allocations are free.
    forward: How many entries of `traffic` belong to the forward pass, see `trace`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[runtime.Launch] = []
        self.traffic: list[Traffic] = []
        self.forward = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == runtime.NAMESPACE:
            return self._run_body(func, args, kwargs)
        result = func(*args, **kwargs)
        if func._schema.name in _CONVOLUTIONS:
            result = _in_layout_of(args[:3], result)
        self.traffic += operation_traffic(func, args, kwargs, result)
        return result

    def _run_body(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what the op runs on a device; on meta tensors PyTorch itself would only infer shapes."""
        with self, runtime.record_launches() as launches:
            result = OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        self.launches += launches
        self.traffic += [_launch_traffic(launch) for launch in launches if 0 not in launch.grid]
        return result


def _in_layout_of(inputs: Iterable[Any], result: Any) -> Any:
    """A convolution's results as a GPU stores them: as NHWC if a tensor that enters is, which meta tensors forget."""
    if not any(isinstance(x, Tensor) and memory_format(x) == torch.channels_last for x in inputs):
        return result
    return tree_map_only(
        Tensor, lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, result
    )


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes behind tensors; what an expanded dimension repeats, and a tensor that occurs twice, count once."""
    seen = {}
    for t in tensors:
        key = (t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype)
        seen[key] = prod(size if stride else min(size, 1) for size, stride in zip(t.shape, t.stride(), strict=True))
        seen[key] *= t.element_size()
    return sum(seen.values())


def _launch_traffic(launch: runtime.Launch) -> Traffic:
    tensors = {name: value for name, value in launch.arguments.items() if isinstance(value, Tensor)}
    read = unique_bytes(t for name, t in tensors.items() if name not in launch.written)
    written = unique_bytes(tensors[name] for name in launch.written if name in tensors)
    return Traffic(launch.kernel.fn.__name__, read, written)


def operation_traffic(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Traffic]:
    """What the kernels of one PyTorch operation read and write: none for a view or an allocation, usually one.

    Args:
        func, args, kwargs: The operation, called with tensors of any kind, fake ones included.
        result: What it returned.
    """
    name = func._schema.name.split("::")[1]
    if name in _ALLOCATION:
        return []
    schema = func._schema.arguments
    inputs = {schema[i].name: value for i, value in enumerate(args)} | kwargs
    mutated = {a.name for a in schema if a.alias_info is not None and a.alias_info.is_write}
    outputs = _tensors(inputs[key] for key in mutated) if mutated else _tensors([result])
    sources = _tensors(inputs.values())
    # A view of a tensor with data is a fake tensor of its own under a FakeTensorMode, only its schema tells.
    if not mutated and (func.is_view or _is_view(outputs, sources)):
        return []
    if name == "convolution_backward":
        return _convolution_gradients(inputs, result)
    if name in _WRITE_ONLY:
        sources = _tensors([inputs["src"]]) if name == "copy_" else []
    return [Traffic(name, unique_bytes(sources), unique_bytes(outputs))]


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(list(values)) if isinstance(leaf, Tensor)]


def _is_view(outputs: list[Tensor], sources: list[Tensor]) -> bool:
    stored = {t.untyped_storage()._cdata for t in sources}
    return all(t.untyped_storage()._cdata in stored for t in outputs)


def _convolution_gradients(inputs: dict[str, Any], result: Sequence[Any]) -> list[Traffic]:
    """One kernel for each gradient that is asked for; the input's needs the weight, the weight's the input."""
    needed = [[inputs["grad_output"], inputs["weight"]], [inputs["grad_output"], inputs["input"]]]
    needed.append([inputs["grad_output"]])
    return [
        Traffic("convolution_backward", unique_bytes(sources), unique_bytes([gradient]))
        for sources, gradient, wanted in zip(needed, result, inputs["output_mask"], strict=True)
        if wanted
    ]


def trace(function: Callable[[], Tensor], leaves: Sequence[Tensor] = (), order: int = 0) -> Trace:
    """Trace a function and its derivatives.

    Args:
        function: Returns one tensor; everything is on the meta device.
        leaves: What to differentiate for; nothing is differentiated if there are none.
        order: 0 = forward only, 1 = with the gradient, 2 = with the gradient of that gradient, for everything.
    """
    with Trace() as traced, _without_autocast():
        y = function()
        traced.forward = len(traced.traffic)
        if order and leaves:
            dy = torch.empty_like(y).requires_grad_()
            gradients = torch.autograd.grad(y, leaves, dy, create_graph=order > 1)
        if order > 1 and leaves:
            outputs = [g for g in gradients if g.requires_grad]
            upstream = [torch.empty_like(g) for g in outputs]
            torch.autograd.grad(outputs, [dy, *leaves], upstream, allow_unused=True)
    return traced


@contextmanager
def _without_autocast() -> Iterator[None]:
    """PyTorch knows no autocast for meta tensors, and raises when asked whether it is on or told to turn it off."""
    with (
        patch("torch.is_autocast_enabled", lambda *_: False),
        patch("torch.autocast", lambda *_, **__: nullcontext()),
    ):
        yield
