"""The arithmetic of every layer in every phase of a training, counted on tensors without data.

What counts is every convolution, matrix product and attention of a phase, forward, backward and second order, with the
fewest bytes that it moves: each input read once and the result written once, in the precision that the configuration
asks for. Everything else (biases, activations, modulation, normalisation, resampling filters, random numbers) could be
fused into these and counts no bytes; of the filters the arithmetic counts. An implementation does with less only where
a layer's result stays in the cache until the next layer reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from bench.count.counter import count, half_as_on_gpu
from bench.count.tracing import Operation
from smartfast import kernels
from smartfast.run.training import Training

STEP = "step"
FILTER = "filter"
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


def count_work(function: Callable[..., Any], *arguments: Any, modules: Mapping[str, nn.Module]) -> list[Work]:
    """The operations of a function that have FLOPs, in order; arguments as in `bench.count.counter.count`."""
    with kernels.use("aten"), half_as_on_gpu():
        return [_work(operation) for operation in count(function, *arguments, modules=modules) if operation.flops]


def _work(operation: Operation) -> Work:
    """Filters run in float32 and need no memory of their own."""
    layer, is_backward, flops = operation.layer, operation.is_backward, operation.flops
    if operation.is_filter:
        return Work(layer, is_backward, FILTER, "fp32", flops, 0)
    return Work(layer, is_backward, operation.name, operation.precision, flops, operation.total)


def training_work(
    training: Training, phases: Sequence[str], *, modules: Mapping[str, nn.Module]
) -> dict[str, list[Work]]:
    """What one run of each phase does over the whole batch of this process, its optimizer step included, and `ema`.

    Args:
        training: With perf.compile off: compiled code cannot be followed.
        phases: Names of those that run.
        modules: As in `count_work`.
    """
    work = {}
    for name in phases:
        phase = training.phases[name]
        one_round = count_work(phase.compute, training.rounds[0], modules=modules)
        work[name] = one_round * len(training.rounds) + [_step(phase.network.module, ADAM_BYTES)]
    return work | {"ema": [_step(training.ema.module, AVERAGE_BYTES)]}


def _step(module: nn.Module, bytes_per_parameter: int) -> Work:
    return Work(STEP, False, STEP, "fp32", 0, sum(p.numel() for p in module.parameters()) * bytes_per_parameter)
