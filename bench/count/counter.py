"""Count what a function would do, eager and compiled, without computing anything: launches, bytes and FLOPs.

Both counts run on fake tensors, which have shapes and no data: the eager one follows the function's operations, the
compiled one lets Inductor lower the function's graph and reads what it scheduled, before any C++ or Triton is compiled.
"""

import functools
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._inductor import ir, scheduler
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from bench.count.tracing import Operation, Trace, operation_flops
from smartfast import kernels
from smartfast.run.training import Training

STEP = "step"
"""Name and layer of an optimizer's step, and of the average's."""
_GENERATED = re.compile(r"cpp_fused_\w+\(|triton_\w+\.run\(")


class Counts(NamedTuple):
    """What one call of a function does.

    launches: Kernels, `library` of them PyTorch's own operations and the rest generated loop nests. calls: Functions
    that compiled code calls to start them; on a CPU Inductor puts neighbouring loop nests into one function. bytes:
    Read and written by all kernels, every tensor of a kernel once. flops: Of the matrix products, convolutions and
    attention.
    """

    launches: float
    library: float
    calls: float
    bytes: float
    flops: float

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Counts") -> "Counts":
        """The difference."""
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Counts":
        """The average of something that happens `factor` times."""
        return Counts(*(a * factor for a in self))


def count(
    function: Callable[..., Any], *arguments: Any, modules: Mapping[str, nn.Module] | None = None
) -> list[Operation]:
    """What a function runs, in order; nothing is computed.

    Args:
        function, arguments: As called; may use tensors with data besides its arguments, which are not changed.
        modules: Prefix of the layers' names to the network that they are in; None = nobody asks for layers.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        inputs = tree_map_only(torch.Tensor, fake.from_tensor, arguments)
        with Trace() as trace, trace.following(modules or {}):
            function(*inputs)
    return trace.traffic


def count_work(function: Callable[..., Any], *arguments: Any, modules: Mapping[str, nn.Module]) -> list[Operation]:
    """The operations of a function that have FLOPs, in the precision of a GPU, with the fewest bytes that they move.

    These are the convolutions, matrix products and attention, forward, backward and second order; each reads its inputs
    once and writes its result once. All else (biases, activations, modulation, normalisation, random numbers) could be
    fused into them and moves no bytes; so could filters, which run in float32. An implementation does with less only
    where a layer's result stays in the cache until the next layer reads it. Arguments as of `count`.
    """
    with kernels.use("aten"), half_as_on_gpu():
        found = [operation for operation in count(function, *arguments, modules=modules) if operation.flops]
    return [one._replace(read=0, written=0, precision="fp32") if one.is_filter else one for one in found]


def training_work(
    training: Training, phases: Sequence[str], *, modules: Mapping[str, nn.Module]
) -> dict[str, list[Operation]]:
    """What one run of each phase does over the whole batch of this process, its optimizer step included, and `ema`.

    Args:
        training: With perf.compile off: compiled code cannot be followed.
        phases: Names of those that run.
        modules: As of `count`.
    """
    work = {}
    for name in phases:
        phase = training.phases[name]
        one_round = count_work(phase.compute, training.rounds[0], modules=modules)
        work[name] = one_round * len(training.rounds) + [_step(phase.network.module, read=4, written=3)]
    return work | {"ema": [_step(training.ema.module, read=2, written=1)]}


def _step(module: nn.Module, *, read: int, written: int) -> Operation:
    """Adam reads weight, gradient and both moments, the average both weights; all are float32."""
    nbytes = 4 * sum(p.numel() for p in module.parameters())
    return Operation(STEP, read * nbytes, written * nbytes, precision="fp32", layer=STEP)


@contextmanager
def half_as_on_gpu() -> Iterator[None]:
    """Convolutions in half precision stay in it; on a CPU they are given float32."""
    with patch.object(sys.modules["smartfast.kernels.conv2d.aten"], "HALF", ()):
        yield


def count_eager(function: Callable[..., Any], *arguments: Any) -> Counts:
    """Count the function as it is: one launch per operation that is no view and no allocation."""
    found = count(function, *arguments)
    flops = sum(operation.flops for operation in found)
    return Counts(len(found), len(found), len(found), sum(operation.total for operation in found), flops)


def count_compiled(function: Callable[..., Any], *arguments: Any) -> Counts:
    """Count a function that `torch.compile` returned (backend Inductor, not called before), all its graphs together.

    Library calls are counted by the rule of `count_eager`, generated kernels as Inductor counts them: each buffer once
    per kernel, at most its size (`BaseSchedulerNode.get_read_write_buffers_sizes`).
    """
    graphs: list[Counts] = []

    def lower(graph: GraphLowering) -> types.SimpleNamespace:
        code, _ = graph.codegen()
        graphs.append(_count_graph(graph, code.value))
        return types.SimpleNamespace(call=_Outputs(graph), __file__="")

    with _without_caches(), patch.object(GraphLowering, "compile_to_module", lower):
        function(*arguments)
    if not graphs:
        raise RuntimeError("the function was not compiled, expected one that torch.compile returned and nobody called")
    return functools.reduce(Counts.plus, graphs)


@contextmanager
def _without_caches() -> Iterator[None]:
    """What Inductor finds in a cache it does not lower."""
    with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
        yield


class _Outputs:
    """Stands in for the compiled code: returns uninitialised tensors of the right layouts."""

    def __init__(self, graph: GraphLowering) -> None:
        self.makers = [_maker(output) for output in graph.graph_outputs]

    def __call__(self, inputs: list) -> list[torch.Tensor | None]:
        inputs.clear()
        return [make() for make in self.makers]


def _maker(output: ir.IRNode) -> Callable[[], torch.Tensor | None]:
    if isinstance(output, ir.NoneAsConstantBuffer):
        return lambda: None
    size, stride = ([int(n) for n in sizes] for sizes in (output.get_size(), output.get_stride()))
    return functools.partial(torch.empty_strided, size, stride, dtype=output.get_dtype(), device=output.get_device())


def _count_graph(graph: GraphLowering, code: str) -> Counts:
    library: list[Operation] = []
    generated_bytes = generated = library_calls = 0
    for node in graph.scheduler.nodes:
        if isinstance(node, scheduler.ExternKernelSchedulerNode):
            if isinstance(node.node, ir.ExternKernel) and not isinstance(node.node, ir.MultiOutput):
                traffic = _library_traffic(node.node)
                library += traffic
                library_calls += bool(traffic)
        elif not isinstance(node, scheduler.NopKernelSchedulerNode):
            generated += 1
            generated_bytes += node.get_read_write_buffers_sizes()
    return Counts(
        launches=generated + len(library),
        library=len(library),
        calls=library_calls + generated_calls(code),
        bytes=generated_bytes + sum(t.total for t in library),
        flops=sum(_node_flops(node) for node in graph.graph.nodes if node.op == "call_function"),
    )


def generated_calls(code: str) -> int:
    """Calls of generated kernels in Inductor's wrapper code: C++ functions and Triton kernels."""
    lines = [line.strip() for line in code.split("def call(", 1)[-1].split("\nrunner", 1)[0].splitlines()]
    return len([line for line in lines if _GENERATED.match(line)])


def _library_traffic(kernel: ir.ExternKernel) -> list[Operation]:
    """By the operation of the graph that the library call stands for; `origins` also holds what was fused into it."""
    name = _name(kernel.op_overload)
    *_, node = sorted(node for node in kernel.origins if _name(node.target) == name)
    args, kwargs = _values((node.args, node.kwargs))
    with V.fake_mode, Trace() as trace:  # follows the project's own ops, whose bodies are not compiled, into the body
        node.target(*args, **kwargs)
    return trace.traffic


def _name(op: Any) -> str:
    """Of an operation, without its overload: Inductor calls in place, and more generally, what a graph has."""
    name = str(getattr(op, "overloadpacket", None)).removesuffix("_").replace("._unsafe_", ".")
    return name.replace("scatter_add", "scatter_reduce")


def _node_flops(node: Node) -> int:
    args, kwargs = _values((node.args, node.kwargs))
    return operation_flops(node.target, args, kwargs, node.meta.get("val"))


def _values(arguments: Any) -> Any:
    return tree_map_only(Node, lambda node: node.meta["val"], arguments)
