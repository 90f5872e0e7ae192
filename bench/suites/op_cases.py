"""What the ops suite runs: recorded calls with random numbers, their derivatives, their least work."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.count.layers import FUNCTIONS, Case
from bench.count.other_cases import forward_flops
from bench.count.tracing import unique_bytes
from smartfast import kernels
from smartfast.augment.geometry import warp_filter
from smartfast.kernels import DEMODULATION_EPS
from smartfast.networks.stylegan2.layers import DEFAULT_FILTER

Mode = Literal["forward", "forward_backward", "second_order"]
MODES: tuple[Mode, ...] = ("forward_backward", "forward", "second_order")
Tensors = dict[str, Tensor]
Op = Callable[[Tensors], Any]

_CONVOLUTIONS = {"conv2d_resample", "modulated_conv2d"}
_PASSES: dict[str, dict[Mode, float]] = {
    "grouped_linear": {"forward": 1, "forward_backward": 3},
    "l2_attention": {"forward": 1, "forward_backward": 3.5},
}
"""Times the matrix products of the forward pass: attention computes the first of its two again."""
_ONCE = {"denoise_distance", "noise_forward", *_PASSES}


class Inputs:
    """A case with random numbers, and what its derivatives need.

    Args:
        case: A recorded call.
        device: Where they are.
        dtype: Of its floating-point tensors, None = the case's own; the numbers are the same.

    Attributes:
        tensors: By argument. options: The other arguments. outputs: Shapes of the results, on the meta device. dy:
        Gradient of the first result. upstream: Gradients of the gradients, for the leaves.
    """

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        self._generator = torch.Generator(device).manual_seed(0)
        self.tensors: Tensors = {}
        self.options: dict[str, Any] = {}
        for name, value in case.arguments.items():
            if isinstance(value, Tensor):
                self.tensors[name] = self._argument(name, value)
            else:
                self.options[name] = value
        if "sigma" in self.tensors:  # alpha^2 + sigma^2 = 1
            self.tensors["sigma"] = (1 - self.tensors["alpha"] ** 2).sqrt()
        if "overwrite" in self.options:  # a repeated call would work on its own result
            self.options["overwrite"] = False
        if dtype is not None and "dtype" in self.options:
            self.options["dtype"] = dtype
        with torch.no_grad():
            outputs = tree_leaves(self.bind(implementation(case, "aten"))(self.tensors))
        self.outputs = [output.to("meta") for output in outputs]
        self.dy = self._random(outputs[0]).requires_grad_()
        self.upstream = [self._random(leaf) for leaf in case.leaves]

    def bind(self, function: Callable[..., Any]) -> Op:
        """A public function, or one like it, of the tensors alone."""
        return lambda tensors: function(**tensors, **self.options)

    def call(self, op: Op, mode: Mode) -> Callable[[], Any]:
        """What is timed: the op on these tensors, and its derivatives."""
        if mode == "forward":
            return lambda: forward(op, self.tensors)
        if mode == "forward_backward":
            return lambda: forward_backward(op, self.tensors, self.dy)
        return lambda: second_order(op, self.tensors, self.dy, self.upstream)

    def _argument(self, name: str, like: Tensor) -> Tensor:
        if name == "matrix":
            turn = torch.tensor([[0.8, -0.6, 1.5], [0.6, 0.8, -2.5]])
            return turn.to(self.device).expand(like.shape).to(self.dtype or like.dtype).contiguous()
        if name == "offsets":  # of experts that have as many rows as one another, but for one that has none
            last = self.case.x.shape[0]
            return (torch.arange(-1, like.numel() - 1, device=self.device).clamp(0) * last) // (like.numel() - 2)
        if name == "f" and self.case.op == "warp2d":
            return warp_filter(self.device)
        if name == "f":
            return kernels.setup_filter(DEFAULT_FILTER).to(self.device)
        if name == "stream":
            return torch.arange(like.numel(), device=self.device)
        values = self._random(like)
        if name == "alpha":
            values = 0.1 + 0.8 * torch.sigmoid(values)
        if name == "weight":  # a power of two near 1 / sqrt(fan-in) leaves the numbers exact
            values = values * 2.0 ** -round(math.log2(like[0].numel()) / 2)
        return values.requires_grad_(like.requires_grad)

    def _random(self, like: Tensor) -> Tensor:
        """Normal numbers that float16 holds, the same ones in every precision; in the memory order of `like`."""
        values = torch.randn(like.shape, generator=self._generator, device=self.device).half()
        return torch.empty_like(like, dtype=self.dtype or like.dtype, device=self.device).copy_(values).detach()


def implementation(case: Case, name: str) -> Callable[..., Any]:
    """The public function of a case with a choice of `aten` or `triton`."""
    return partial(FUNCTIONS[case.op], impl=name)


def forward(op: Op, tensors: Tensors) -> Any:
    """The op's results."""
    return tree_map_only(Tensor, Tensor.detach, op(tensors))


def forward_backward(op: Op, tensors: Tensors, dy: Tensor) -> tuple[Any, ...]:
    """The op's first result and the gradients of its leaves, None for those that it does not use."""
    y = _first(op(tensors))
    return (y.detach(), *torch.autograd.grad(y, _leaves(tensors), dy.detach(), allow_unused=True))


def second_order(op: Op, tensors: Tensors, dy: Tensor, upstream: Sequence[Tensor]) -> tuple[Any, ...]:
    """Result, gradients, and the gradients of those for the result's gradient and the leaves, where they are any."""
    leaves = _leaves(tensors)
    y = _first(op(tensors))
    gradients = torch.autograd.grad(y, leaves, dy, create_graph=True)
    differentiable = [(g, u) for g, u in zip(gradients, upstream, strict=True) if g.requires_grad]
    outputs, weights = zip(*differentiable, strict=True)
    second = torch.autograd.grad(outputs, [dy, *leaves], weights, allow_unused=True)
    return (y.detach(), *(g.detach() for g in gradients), *second)


def modes_of(case: Case) -> list[Mode]:
    """What training needs of an op: the score term's ops are differentiated once, the others twice."""
    if not case.leaves:
        return ["forward"]
    return [mode for mode in MODES if mode != "second_order" or case.op not in _ONCE]


def least_flops(case: Case, mode: Mode) -> float:
    """Of the matrix products and the convolution in a case, 0 where there are none.

    With gradients it is 3 times that of the forward pass; with theirs 7 times, or 9 where a gradient depends on the
    convolution's result, as that of demodulation does.
    """
    if case.op in _PASSES:
        return forward_flops(case) * _PASSES[case.op][mode]
    if case.op not in _CONVOLUTIONS:
        return 0.0
    x, weight = case.arguments["x"], case.arguments["weight"]
    multiplications = x.numel() * weight.shape[0] * weight[0, 0].numel() / case.arguments.get("down", 1) ** 2
    demodulates = case.op == "modulated_conv2d" and case.arguments.get("demodulate", True)
    passes = {"forward": 1, "forward_backward": 3, "second_order": 9 if demodulates else 7}
    return 2 * multiplications * passes[mode]


def least_bytes(inputs: Inputs, mode: Mode, results: Sequence[Tensor | None]) -> int:
    """Every input read once and every result written once, what lies between them never.

    Args:
        inputs: Of the call, in its own precision.
        results: Of the call in any precision; None where a derivative is zero.
    """
    arguments = unique_bytes(list(inputs.tensors.values()))
    leaves = inputs.case.leaves
    if mode == "forward":
        return arguments + unique_bytes(inputs.outputs)
    read = [inputs.dy, *(leaves if mode == "second_order" else [])]
    written = [inputs.dy, *leaves, inputs.dy, *leaves]  # the result, the gradients, the gradients of those
    wanted = [tensor for tensor, result in zip(written, results, strict=False) if result is not None]
    return arguments + sum(unique_bytes([tensor]) for tensor in [*read, *wanted])


def grouped_convolution(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    bias: Tensor,
    noise: Tensor | None = None,
    demodulate: bool = True,
    input_is_scaled: bool = False,
    act: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
    next_styles: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`kernels.modulated_conv2d` with weights of its own for every sample: one grouped convolution of the library."""
    n, c, height, width = x.shape
    scaled = weight * styles[:, None, :, None, None]
    weights = weight.expand_as(scaled) if input_is_scaled else scaled
    if demodulate:
        weights = weights * (scaled.square().sum(dim=[2, 3, 4], keepdim=True) + DEMODULATION_EPS).rsqrt()
    one = x.reshape(1, n * c, height, width)
    y = kernels.conv2d_resample(one, weights.flatten(0, 1).to(x.dtype), groups=n, **options, impl="aten")
    y = y.reshape(n, -1, *y.shape[2:])
    y = y if noise is None else y + noise
    y = kernels.bias_act(y, bias, act=act, gain=gain, clamp=clamp, impl="aten")
    return y if next_styles is None else y * next_styles.to(y.dtype)[:, :, None, None]


def _leaves(tensors: Tensors) -> list[Tensor]:
    return [tensor for tensor in tensors.values() if tensor.requires_grad]


def _first(results: Any) -> Tensor:
    return results if isinstance(results, Tensor) else results[0]
