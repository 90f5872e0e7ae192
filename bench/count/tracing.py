"""Follow code on tensors without data down to what reaches the device: kernel launches and PyTorch's own operations.

Meta and fake tensors have shapes and strides only, so that any layer of any network is traced in milliseconds without
a GPU. The bodies of the project's custom ops run inside `record_launches`, which notes their Triton kernels instead of
starting them; one that tells its FLOPs counts as a single operation. This is the only counter: of launches, of bytes,
of FLOPs, and of the layer that each belongs to.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import prod
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from smartfast.kernels import memory_format, runtime

aten = torch.ops.aten
# Operations that write a tensor without reading the one they take its shape from, or the one they write to.
_WRITE_ONLY = {"copy_", "fill_", "zero_", "normal_", "uniform_", "zeros_like", "ones_like", "full_like", "new_zeros"}
_CONVOLUTIONS = {"aten::convolution", "aten::convolution_backward"}
_ALLOCATION = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}

if aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:

    @register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)
    def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    @register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
    def _attention_backward_flops(
        upstream: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
    ) -> int:
        return sdpa_backward_flop_count(upstream, query, key, value)


class Operation(NamedTuple):
    """One kernel, as far as shapes tell: a launch, or what a PyTorch operation runs.

    read, written: Bytes of memory, every tensor once. flops: Of a matrix product, convolution or attention, 2 per
    multiply-add. precision: Of the operands of those: fp32, fp16, bf16 or fp64. is_filter: A convolution of every
    channel by itself, as resampling filters are. layer: Dotted name of the module that it belongs to, "" outside of
    those that are followed. is_backward: Whether it runs in a backward pass.
    """

    name: str
    read: int
    written: int
    flops: int = 0
    precision: str = ""
    is_filter: bool = False
    layer: str = ""
    is_backward: bool = False

    @property
    def total(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


class Trace(TorchDispatchMode):
    """Collects what the code inside the `with` block runs; its tensors must be of the meta device or fake.

    A node of the autograd graph belongs to the layer whose code created it: the module that runs, or in a backward pass
    the layer of the node that is being differentiated.

    follows_all: Also into ops of the project that tell their FLOPs, which are one operation each otherwise.

    launches: Kernel launches. traffic: The launches and PyTorch's operations; views and allocations are free.
    forward: How many entries of `traffic` belong to the forward pass, see `trace`.
    """

    def __init__(self, *, follows_all: bool = False) -> None:
        super().__init__()
        self._follows_all = follows_all
        self.launches: list[runtime.Launch] = []
        self.traffic: list[Operation] = []
        self.forward = 0
        self._running = [""]
        self._layers: dict[int, str] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_own = func.namespace == runtime.NAMESPACE
        if is_own and (self._follows_all or func.overloadpacket not in flop_registry):
            return self._run_body(func, args, kwargs)
        layer, is_backward = self._place()
        result = func(*args, **kwargs)
        if func._schema.name in _CONVOLUTIONS:
            result = _in_layout_of(args[:3], result)
        found = operations_of(func, args, kwargs, result)
        self.traffic += [operation._replace(layer=layer, is_backward=is_backward) for operation in found]
        return result

    def _place(self) -> tuple[str, bool]:
        """The layer that runs, and whether its backward pass does; the node just created belongs to the same one."""
        node = torch._C._current_autograd_node()
        layer = self._running[-1] if node is None else self._layers.get(node._sequence_nr(), "")
        self._layers.setdefault(torch.autograd._get_sequence_nr() - 1, layer)
        return layer, node is not None

    def _run_body(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what the op runs on a device; on meta tensors PyTorch itself would only infer shapes."""
        layer, is_backward = self._place()
        with self, runtime.record_launches() as launches:
            result = OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        self.launches += launches
        self.traffic += [
            _launched(launch)._replace(layer=layer, is_backward=is_backward)
            for launch in launches
            if 0 not in launch.grid
        ]
        return result

    @property
    def layer(self) -> str:
        """The module that runs, of those that are followed."""
        return self._running[-1]

    @contextmanager
    def following(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within it the trace knows which module runs.

        Args:
            modules: Prefix of the layers' names to the network that they are in.
        """
        handles = []
        for prefix, network in modules.items():
            for name, module in network.named_modules():
                enter, leave = partial(self._enter, f"{prefix}.{name}" if name else prefix), self._leave
                handles += [module.register_forward_pre_hook(enter)]
                handles += [module.register_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, layer: str, module: nn.Module, inputs: Any) -> None:
        self._running.append(layer)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._running.pop()


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


def _launched(launch: runtime.Launch) -> Operation:
    tensors = {name: value for name, value in launch.arguments.items() if isinstance(value, Tensor)}
    read = unique_bytes(t for name, t in tensors.items() if name not in launch.written)
    written = unique_bytes(tensors[name] for name in launch.written if name in tensors)
    return Operation(launch.kernel.fn.__name__, read, written)


def operations_of(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Operation]:
    """What the kernels of one PyTorch operation do: none for a view or an allocation, usually one.

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
        return _convolution_gradients(func, args, inputs, result)
    if name in _WRITE_ONLY:
        sources = _tensors([inputs["src"]]) if name == "copy_" else []
    moved = Operation(name, unique_bytes(sources), unique_bytes(outputs))
    if func.overloadpacket not in flop_registry:
        return [moved]
    flops = operation_flops(func, args, kwargs, result)
    return [moved._replace(flops=flops, precision=PRECISIONS[args[0].dtype], is_filter=_is_filter(inputs))]


def operation_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """FLOPs of an operation by PyTorch's formula; 0 where there is none.

    For the weight's gradient of a convolution in groups that formula takes every channel with every other one.
    """
    packet = getattr(func, "overloadpacket", None)
    formula = flop_registry.get(packet)
    if formula is None:
        return 0
    if packet is not aten.convolution_backward:
        return formula(*args, **kwargs, out_val=result)
    *others, groups, mask = args
    of_input, of_weight = (
        formula(*others, groups, [place == other and mask[place] for other in range(3)], **kwargs, out_val=result)
        for place in range(2)
    )
    return of_input + of_weight // groups


def _is_filter(inputs: dict[str, Any]) -> bool:
    return inputs.get("groups", 1) > 1 and inputs["weight"].shape[1] == 1


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(list(values)) if isinstance(leaf, Tensor)]


def _is_view(outputs: list[Tensor], sources: list[Tensor]) -> bool:
    stored = {t.untyped_storage()._cdata for t in sources}
    return all(t.untyped_storage()._cdata in stored for t in outputs)


def _convolution_gradients(
    func: OpOverload, args: tuple[Any, ...], inputs: dict[str, Any], result: Sequence[Any]
) -> list[Operation]:
    """One kernel for each gradient that is asked for; the input's needs the weight, the weight's the input.

    The bias's gradient, the third, is a sum and has no FLOPs.
    """
    upstream, mask = inputs["grad_output"], inputs["output_mask"]
    needed = [[upstream, inputs["weight"]], [upstream, inputs["input"]], [upstream]]
    found = []
    for place, (sources, gradient, is_wanted) in enumerate(zip(needed, result, mask, strict=True)):
        if is_wanted:
            only = [place == other for other in (0, 1)] + [False]
            flops = operation_flops(func, (*args[:-1], only), {}, result) if place < 2 else 0
            moved = Operation("convolution_backward", unique_bytes(sources), unique_bytes([gradient]), flops)
            precision = PRECISIONS[upstream.dtype] if flops else ""
            found.append(moved._replace(precision=precision, is_filter=place < 2 and _is_filter(inputs)))
    return found


def trace(
    function: Callable[[], Tensor], leaves: Sequence[Tensor] = (), order: int = 0, *, follows_all: bool = False
) -> Trace:
    """Trace a function and its derivatives.

    Args:
        function: Returns one tensor; everything is on the meta device.
        leaves: What to differentiate for; nothing is differentiated if there are none.
        order: 0 = forward only, 1 = with the gradient, 2 = with the gradient of that gradient, for everything.
        follows_all: See `Trace`.
    """
    with Trace(follows_all=follows_all) as traced, _without_autocast():
        y = function()
        traced.forward = len(traced.traffic)
        if order and leaves:
            dy = torch.empty_like(y).requires_grad_()
            gradients = torch.autograd.grad(y, leaves, dy, create_graph=order > 1, allow_unused=True)
        if order > 1 and leaves:
            outputs = [g for g in gradients if g is not None and g.requires_grad]
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
