"""The arithmetic of every layer in every phase of a training, counted on tensors without data.

What counts is every convolution, matrix product and attention of a phase, forward, backward and second order, with the
fewest bytes that it moves: each input read once and the result written once, in the precision that the configuration
asks for. Everything else (biases, activations, modulation, normalisation, resampling filters, random numbers) could be
fused into these and counts no bytes; of the filters the arithmetic counts. An implementation does with less only where
a layer's result stays in the cache until the next layer reads it.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

import bench.count.counter  # noqa: F401  # registers the FLOPs of the CPU's attention
from bench.count.tracing import operation_traffic
from smartfast import kernels
from smartfast.engine.phase import TrainedNetwork
from smartfast.run.training import Training

aten = torch.ops.aten
STEP = "step"
FILTER = "filter"
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
ADAM_BYTES = 7 * 4
"""Per parameter: weight, gradient and both moments read, weight and moments written, float32."""
AVERAGE_BYTES = 3 * 4
"""Per parameter of the averaged generator: both weights read, one written."""


class Work(NamedTuple):
    """One operation of a phase.

    layer: Dotted name of the module it belongs to, `g.`, `d.` or `scorer.` first; "" outside of them. is_backward:
    Whether it runs in a backward pass. operation: PyTorch's name; `filter` = a resampling filter, `step` = Adam or the
    averaged generator. precision: Of its operands, fp32, fp16, bf16 or fp64. flops: 2 per multiply-add.
    bytes: The fewest that it moves, see the module.
    """

    layer: str
    is_backward: bool
    operation: str
    precision: str
    flops: int
    bytes: int


def count_work(function: Callable[..., Any], *arguments: Any, modules: dict[str, nn.Module]) -> list[Work]:
    """What a function does, in order; nothing is computed.

    Args:
        function, arguments: As called; may use tensors with data besides its arguments, which are not changed.
        modules: Prefix of the layers' names to the network that they are in.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, kernels.use("reference"), _half_on_cpu():
        inputs = tree_map_only(Tensor, fake.from_tensor, arguments)
        with _Recorder() as recorder, _followed(modules, recorder):
            function(*inputs)
    return recorder.work


def training_work(training: Training, phases: Sequence[str]) -> dict[str, list[Work]]:
    """What one run of each phase does over the whole batch of this process, its optimizer step included, and `ema`.

    Args:
        training: With perf.compile off: compiled code cannot be followed.
        phases: Names of those that run.
    """
    modules: dict[str, nn.Module] = {"g": training.g.module, "d": training.d.module}
    if training.recipe.score_term is not None:
        modules["scorer"] = training.recipe.score_term.scorer
    work = {}
    for name in phases:
        phase = training.phases[name]
        one_round = count_work(phase.compute, training.rounds[0], modules=modules)
        work[name] = one_round * len(training.rounds) + [_step(phase.network, ADAM_BYTES)]
    return work | {"ema": [_step(training.g, AVERAGE_BYTES)]}


def _step(network: TrainedNetwork, bytes_per_parameter: int) -> Work:
    return Work(STEP, False, STEP, "fp32", 0, network.gradient.numel() * bytes_per_parameter)


class _Recorder(TorchDispatchMode):
    """Notes the operations that have FLOPs, and which layer each belongs to, in passes of every order.

    A node of the autograd graph belongs to the layer whose code created it: the module that runs, or in a backward pass
    the layer of the node that is being differentiated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Work] = []
        self.running: list[str] = [""]
        self._layers: dict[int, str] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        node = torch._C._current_autograd_node()
        layer = self.running[-1] if node is None else self._layers.get(node._sequence_nr(), "")
        self._layers.setdefault(torch.autograd._get_sequence_nr() - 1, layer)
        result = func(*args, **(kwargs or {}))
        for operation, precision, flops, moved_bytes in _operations(func, args, kwargs or {}, result):
            self.work.append(Work(layer, node is not None, operation, precision, flops, moved_bytes))
        return result


def _operations(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Iterator[tuple[str, str, int, int]]:
    """Name, precision, FLOPs and bytes of what an operation consists of; nothing for one that has no FLOPs."""
    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return
    name, precision = func._schema.name.split("::")[1], PRECISIONS[args[0].dtype]
    traffic = iter(operation_traffic(func, args, kwargs, result))
    if name == "convolution_backward":
        *others, groups, mask = args
        for i in (0, 1):  # the bias's gradient, the third, is a sum
            if mask[i]:
                flops = formula(*others, groups, [i == 0, i == 1, False], out_val=result)
                yield _filter_or(name, groups, precision, flops, next(traffic).total)
    else:
        flops = formula(*args, **kwargs, out_val=result)
        groups = args[8] if name == "convolution" else 1
        yield _filter_or(name, groups, precision, flops, sum(t.total for t in traffic))


def _filter_or(name: str, groups: int, precision: str, flops: int, moved_bytes: int) -> tuple[str, str, int, int]:
    """Depthwise convolutions are the resampling filters, which run in float32 and need no memory of their own."""
    return (FILTER, "fp32", flops, 0) if groups > 1 else (name, precision, flops, moved_bytes)


@contextmanager
def _followed(modules: dict[str, nn.Module], recorder: _Recorder) -> Iterator[None]:
    """Within it the recorder knows which module runs."""
    handles = []
    for prefix, network in modules.items():
        for name, module in network.named_modules():
            path = f"{prefix}.{name}" if name else prefix
            handles.append(module.register_forward_pre_hook(functools.partial(_enter, recorder, path)))
            handles.append(module.register_forward_hook(functools.partial(_leave, recorder), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(recorder: _Recorder, path: str, module: nn.Module, inputs: Any) -> None:
    recorder.running.append(path)


def _leave(recorder: _Recorder, module: nn.Module, inputs: Any, output: Any) -> None:
    recorder.running.pop()


@contextmanager
def _half_on_cpu() -> Iterator[None]:
    """Convolutions in half precision stay in it, as on a GPU; on a CPU they are given float32."""
    with patch.object(sys.modules["smartfast.kernels.conv2d"], "HALF", ()):
        yield
