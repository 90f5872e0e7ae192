"""Convolution and its two gradients: right, closed under differentiation, and never larger than a convolution."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from smartfast.kernels import conv2d, use
from smartfast.kernels.conv2d import spec
from smartfast.kernels.conv2d.op import Convolution
from smartfast.kernels.conv2d.triton import conv, conv_input_gradient, conv_weight_gradient

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CHANNELS = 6
CASES = {
    "valid": dict(weight=(4, 6, 3, 3)),
    "padded": dict(weight=(4, 6, 3, 3), padding=1),
    "uneven": dict(weight=(5, 6, 2, 3), padding=(0, 2)),
    "pointwise": dict(weight=(5, 6, 1, 1)),
    "stride, pixels left over": dict(weight=(4, 6, 3, 3), stride=2, padding=1),
    "stride 3": dict(weight=(4, 6, 2, 4), stride=3, padding=(1, 0)),
    "groups": dict(weight=(4, 3, 3, 3), groups=2, padding=1),
    "depthwise, stride": dict(weight=(6, 1, 3, 3), groups=6, stride=2),
    "transposed": dict(weight=(6, 4, 3, 3), transposed=True),
    "transposed, stride, cut": dict(weight=(6, 4, 3, 2), transposed=True, stride=2, padding=(1, 0)),
    "transposed, groups": dict(weight=(6, 2, 3, 3), transposed=True, stride=2, groups=2),
}


def tensors(name: str, rng: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Random x and weight that require gradients, and the options."""
    options = dict(CASES[name])
    x = torch.randn(2, CHANNELS, 7, 8, generator=rng).to(dtype).requires_grad_()
    weight = torch.randn(options.pop("weight"), generator=rng).to(dtype).requires_grad_()
    return x, weight, options


def definition(x: Tensor, weight: Tensor, padding: int | tuple[int, int] = 0, **options: Any) -> Tensor:
    pads = (padding, padding) if isinstance(padding, int) else padding
    return spec.conv2d(x, weight, Convolution(padding=pads, **options))


@pytest.mark.parametrize("name", CASES)
def test_spec_is_the_library(name: str, rng: torch.Generator) -> None:
    x, weight, options = tensors(name, rng, torch.float64)
    library = F.conv_transpose2d if options.pop("transposed", False) else F.conv2d
    expected = library(x, weight, **options)
    options = dict(options, transposed=library is F.conv_transpose2d)
    assert torch.allclose(definition(x, weight, **options), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, weight, options = tensors(name, rng, dtype)
    y = assert_within_budget(partial(conv2d, **options), partial(definition, **options), [x, weight])
    assert y.dtype == dtype


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", CASES)
def test_second_order(name: str, rng: torch.Generator) -> None:
    x, weight, options = tensors(name, rng, torch.float64)
    assert gradcheck(lambda *t: conv2d(*t, **options), (x, weight), fast_mode=True)
    assert gradgradcheck(lambda *t: conv2d(*t, **options), (x, weight), fast_mode=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["padded", "stride, pixels left over", "groups"])
def test_registration(name: str, dtype: torch.dtype, channels_last: bool, rng: torch.Generator) -> None:
    x, weight, options = tensors(name, rng, dtype)
    if channels_last:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    settings = (options.get("stride", 1), [options.get("padding", 0)] * 2, options.get("groups", 1))
    dy = torch.randn_like(conv(x, weight, *settings)).requires_grad_()
    opcheck(conv, (x, weight, *settings))
    opcheck(conv_input_gradient, (dy, weight, list(x.shape), *settings))
    opcheck(conv_weight_gradient, (dy, x, list(weight.shape), *settings))


@pytest.mark.parametrize("transposed", [False, True])
def test_layouts(transposed: bool, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=rng)
    dense = torch.randn(2, CHANNELS, 7, 16, generator=rng)
    options = dict(stride=2, transposed=transposed)
    for x in (dense[..., ::2], dense.to(memory_format=torch.channels_last), dense.transpose(2, 3)):
        upstream = torch.tensor(0.7).expand(conv2d(x, weight, **options).shape)  # of stride 0
        op = partial(conv2d, impl="triton", **options)
        y = assert_within_budget(op, partial(definition, **options), [x, weight], upstream=upstream)
        is_nhwc = x.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous(memory_format=torch.channels_last if is_nhwc else torch.contiguous_format)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ["stride, pixels left over", "groups"])
def test_memory_that_was_not_written_is_not_read(name: str, rng: torch.Generator) -> None:
    x, weight, options = tensors(name, rng, torch.float32)
    y = conv2d(x, weight, impl="triton", **options)
    assert all(t.isfinite().all() for t in (y, *torch.autograd.grad(y.sum(), [x, weight])))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", ["padded", "transposed, stride, cut"])
def test_empty_batch(name: str, rng: torch.Generator) -> None:
    x, weight, options = tensors(name, rng, torch.float32)
    x = x.detach()[:0].requires_grad_()
    y = conv2d(x, weight, **options)
    assert y.shape == (0, *definition(torch.zeros(1, *x.shape[1:]), weight, **options).shape[1:])
    dx, dw = torch.autograd.grad(y.sum(), [x, weight])
    assert dx.shape == x.shape
    assert dw.shape == weight.shape and not dw.any()


@pytest.mark.usefixtures("implementation")
def test_autocast_does_not_reach_inside(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    x, weight, options = tensors("padded", rng, torch.float32)

    def op(*tensors: Tensor) -> Tensor:
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            return conv2d(*tensors, **options)

    assert assert_within_budget(op, partial(definition, **options), [x, weight]).dtype == torch.float32


def penalty(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function like R1: the squared image gradient of three convolutions, one of them with stride 2."""

    def compute(x: Tensor, *weights: Tensor) -> Tensor:
        y = x
        for i, weight in enumerate(weights):
            y = F.leaky_relu(convolve(y, weight, stride=1 + i % 2, padding=1), 0.2)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return gradient.square().sum()

    return compute


def kernel_sizes(graph: torch.fx.Graph) -> Iterator[tuple[int, ...]]:
    """Height and width of the kernel of every convolution in a graph."""
    aten, own = torch.ops.aten, torch.ops.smartfast
    weights = {
        aten.convolution.default: 1,
        aten.convolution_backward.default: 2,
        own.conv.default: 1,
        own.conv_input_gradient.default: 1,
    }
    for node in graph.nodes:
        if node.target in weights:
            yield tuple(node.args[weights[node.target]].meta["val"].shape[2:])
        elif node.target == own.conv_weight_gradient.default:
            yield tuple(node.args[2][2:])


@pytest.mark.usefixtures("traced_autograd")
def test_no_kernel_is_as_large_as_a_feature_map(
    implementation: str, rng: torch.Generator, within_budget: Callable[..., None]
) -> None:
    """In the graph of R1's second derivative. PyTorch's own has such kernels, which shows that the test sees them."""
    x = torch.randn(2, 3, 16, 16, generator=rng, requires_grad=True)
    weights = [torch.randn(4, c, 3, 3, generator=rng, requires_grad=True) for c in (3, 4, 4)]
    graphs = []

    def keep(module: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    def step(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(penalty(conv2d)(x, *weights), weights)

    gradients = torch.compile(step, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(x, *weights)
    with use("aten"):
        own = step(x, *weights)
        truths = step(*(t.detach().double().requires_grad_() for t in (x, *weights)))
    for i, tensors in enumerate(zip(gradients, own, truths, strict=True)):
        within_budget(f"gradient of weight {i}", *tensors)
    sizes = {size for graph in graphs for size in kernel_sizes(graph)}
    assert (sizes == {(3, 3)}) == (implementation == "triton")


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(4, 8, 8)), r"x is torch.float32 \(4, 8, 8\), expected floating point \[N, C, H, W\]"),
        (dict(x=torch.zeros(2, 4, 8, 8, dtype=torch.int64)), "x is torch.int64"),
        (dict(weight=torch.zeros(4, 3, 3)), r"weight is torch.float32 \(4, 3, 3\)"),
        (dict(weight=torch.zeros(6, 3, 3, 3)), r"expected torch.float32 \[O, 4, kh, kw\]"),
        (dict(weight=torch.zeros(5, 2, 3, 3), groups=2), "and O a multiple of 2"),
        (dict(weight=torch.zeros(3, 4, 3, 3), transposed=True), r"expected torch.float32 \[4, O / 1, kh, kw\]"),
        (dict(weight=torch.zeros(4, 4, 3, 3).half()), "weight is torch.float16"),
    ],
    ids=["x", "dtype of x", "weight", "channels", "groups", "transposed", "dtype of weight"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(4, 4, 3, 3)) | change
    with pytest.raises(ValueError, match=message):
        conv2d(**arguments)
