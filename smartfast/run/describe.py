"""What the networks are and what they cost: the tables that `run.dry_run` prints.

A multiply-add counts as 2 FLOPs, as in torch.utils.flop_counter: convolutions, matrix products and attention count,
elementwise work does not. Nothing is computed: the networks run on fake tensors, so any size is instant.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smartfast import kernels
from smartfast.core.text import format_duration, format_table
from smartfast.families.base import Cost, Family
from smartfast.scorers import Scorer


class Layer(NamedTuple):
    """One row of a network's table: shape of an image's output, parameters, FLOPs of a forward pass."""

    name: str
    output_shape: tuple[int, ...] | None
    parameters: int
    flops: int


_USUAL_TFLOP_PER_SEC = 100  # of a data centre's GPU in half precision


def describe_layers(module: nn.Module, inputs: Sequence[Tensor | None]) -> list[Layer]:
    """The layers of a network that own weights, in order of definition; a container's own work gets a row as well.

    Args:
        module: On any device; it is neither computed with nor changed.
        inputs: Its positional arguments for a batch of one; only shapes and dtypes matter.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    handles = [m.register_forward_hook(_shape_recorder(shapes, name)) for name, m in module.named_modules()]
    try:
        counts = _count_flops(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return _rows(module, "", shapes, counts)


def describe_network(module: nn.Module, inputs: Sequence[Tensor | None]) -> str:
    """A text table of a network: layer, output shape, parameters, FLOPs; arguments as `describe_layers`."""
    return _format_layers(type(module).__name__, describe_layers(module, inputs))


def networks_summary(family: Family, scorer: Scorer | None, scorer_name: str) -> str:
    """The tables of a family's networks, the scorer in one row, and the estimated cost of each phase.

    A backward pass counts as two forward passes, or one where only the input needs a gradient; a penalty's second
    backward pass goes through both the forward pass and the first, input-only backward pass.
    """
    tables, flops = [], {}
    for name, inputs in family.example_inputs().items():
        layers = describe_layers(family.modules[name], inputs)
        tables.append(_format_layers(type(family.modules[name]).__name__, layers))
        flops[name] = float(sum(layer.flops for layer in layers))
    if scorer is not None:
        flops["scorer"] = float(_scorer_flops(scorer, family.config.smart.crop))
        shape = (scorer.channels, scorer.resolution, scorer.resolution)
        parameters = sum(p.numel() for p in scorer.parameters())
        tables.append(_format_layers("Scorer", [Layer(scorer_name, shape, parameters, int(flops["scorer"]))]))
    remark = family.remark_on_costs(flops)
    costs = family.costs(flops)
    whole = _whole_work(costs, family.config.run.kimg)
    return "\n\n".join([*tables, _format_costs(costs), whole, *([] if remark is None else [remark])])


def _whole_work(costs: Sequence[Cost], kimg: float) -> str:
    """The FLOPs of a run, and how long they take at best on a GPU, where that is more than a moment."""
    tflop = kimg * sum(cost.flops_per_image for cost in costs) / 1e9
    sec = tflop / _USUAL_TFLOP_PER_SEC
    at_best = f", {format_duration(sec)} at {_USUAL_TFLOP_PER_SEC} TFLOP/s sustained" if sec > 60 else ""
    return f"run.kimg {kimg:g}: {tflop:.3g} TFLOP{at_best}"


def score_share(family: Family, scorer: Scorer) -> float:
    """The score term's share of a run's work, by the same estimate; the networks may be on any device.

    They are in evaluation mode meanwhile, where no batch norm waits for other processes.
    """
    flops = {"scorer": float(_scorer_flops(scorer, family.config.smart.crop))}
    for name, inputs in family.example_inputs().items():
        module = family.modules[name]
        device = next(module.parameters()).device
        module.eval()
        try:
            flops[name] = float(_count_flops(module, [None if x is None else x.to(device) for x in inputs])[""])
        finally:
            module.train()
    costs = {cost.phase: cost.flops_per_image for cost in family.costs(flops)}
    return costs["score"] / sum(costs.values())


def _format_layers(name: str, layers: Sequence[Layer]) -> str:
    rows = [_format_layer(layer) for layer in layers]
    if len(layers) > 1:
        total = Layer("total", None, sum(x.parameters for x in layers), sum(x.flops for x in layers))
        rows.append(_format_layer(total))
    return format_table([name, "output", "parameters", "MFLOP per image"], rows)


def _format_layer(layer: Layer) -> list[str]:
    shape = "" if layer.output_shape is None else " x ".join(map(str, layer.output_shape))
    return [layer.name, shape, f"{layer.parameters:,}", f"{layer.flops / 1e6:,.2f}"]


def _format_costs(costs: Sequence[Cost]) -> str:
    total = sum(cost.flops_per_image for cost in costs)
    rows = [
        [
            cost.phase,
            f"{cost.flops / 1e9:.4g}",
            f"{cost.interval}",
            f"{cost.flops_per_image / 1e9:.4g}",
            f"{100 * cost.flops_per_image / total:.1f} %",
        ]
        for cost in costs
    ]
    total_row = ["total", "", "", f"{total / 1e9:.4g}", "100.0 %"]
    header = ["Estimated cost", "GFLOP per image", "every", "GFLOP per training image (TFLOP per kimg)", "share"]
    return format_table(header, [*rows, total_row])


def _scorer_flops(scorer: Scorer, crop: int | None) -> int:
    """Of an image, or of the square of it that is scored."""
    device, size = scorer.alphas.device, crop or scorer.resolution
    images = torch.empty(1, scorer.channels, size, size, device=device, dtype=scorer.dtype)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    return _count_flops(scorer, [images, index, index if scorer.num_classes else None], scorer.network)[""]


def _count_flops(
    module: nn.Module, inputs: Sequence[Tensor | None], function: Callable[..., Tensor] | None = None
) -> dict[str, int]:
    """FLOPs of each submodule by name, "" = all, when `function` (default: the module) runs on `inputs`."""
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, kernels.use("aten"):
        with sdpa_kernel(SDPBackend.MATH), counter:  # the CPU's fused attention is unknown to the counter
            (function or module)(*(None if x is None else fake.from_tensor(x) for x in inputs))
    prefix = f"{type(module).__name__}."
    counts = {name.removeprefix(prefix): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return {**counts, "": counter.get_total_flops()}


def _shape_recorder(shapes: dict[str, tuple[int, ...]], name: str) -> Callable[..., None]:
    def record(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        first = output[0] if isinstance(output, tuple) else output
        shapes[name] = tuple(first.shape[1:])

    return record


def _rows(module: nn.Module, name: str, shapes: dict[str, tuple[int, ...]], counts: dict[str, int]) -> list[Layer]:
    """A module with a weight is one row, children included; any other is its children's rows and one for the rest."""
    parameters = sum(p.numel() for p in module.parameters())
    if isinstance(getattr(module, "weight", None), nn.Parameter):
        return [Layer(name, shapes.get(name), parameters, counts.get(name, 0))]
    rows: list[Layer] = []
    for child_name, child in module.named_children():
        rows += _rows(child, f"{name}.{child_name}" if name else child_name, shapes, counts)
    parameters -= sum(row.parameters for row in rows)
    of_children = sum(row.flops for row in rows)
    flops = counts.get(name, of_children) - of_children  # a mere list of modules is never called
    if parameters or flops:
        rows.append(Layer(f"{name} (itself)" if name else "(itself)", shapes.get(name), parameters, flops))
    return rows
