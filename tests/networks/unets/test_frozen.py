"""What a prepared network computes: the same, in one graph, with no gradient of a weight, nearly so in bfloat16."""

import functools
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from smartfast.networks.unets import prepare

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
QUICK = ("adm", "ncsnpp", "edm2")
NAMES = (*QUICK, "adm, convolutions resample", "cm", "ddpmpp", "song with skips", "dhariwal", "iddpm", "vp", "ve")
HALF = {torch.bfloat16: 0.999, torch.float16: 0.9999}


def output_and_gradient(network: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Of a loss like the score term's: the mean square of the output."""
    output = network(*inputs)
    return output.detach(), torch.autograd.grad(output.float().square().mean(), inputs[0])[0]


@pytest.mark.sample(2)
def test_prepared_in_float32_it_is_the_same_function(example) -> None:
    expected = output_and_gradient(example.network, example.inputs)
    prepared = output_and_gradient(prepare(example.network), example.inputs)
    for found, wanted in zip(prepared, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.sample(4)
def test_preparing_twice_changes_nothing(example) -> None:
    once = prepare(example.network)(*example.inputs)
    torch.testing.assert_close(prepare(example.network)(*example.inputs), once, rtol=0, atol=0)


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradient_in_half_precision(example, dtype) -> None:
    _, expected = output_and_gradient(example.network, example.inputs)
    _, found = output_and_gradient(prepare(example.network, dtype), example.inputs)
    assert found.dtype == expected.dtype
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) >= HALF[dtype]
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["adm", "ddpmpp", "ncsnpp", "dhariwal", "edm2"])
def test_little_noise_survives_bfloat16(narrow, name) -> None:
    """Rounded to bfloat16, images with noise of 1e-3 would hardly change."""
    network, (images, level, labels) = narrow(name)
    prepare(network, torch.bfloat16)
    seen = []
    first = next(module for module in network.modules() if getattr(module, "images", None) == "in")
    first.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], module.weight.dtype)))
    network(images, level, labels)
    assert seen[0][0].dtype == seen[0][1] == torch.float32


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_one_graph_without_a_gradient_of_a_weight(narrow, name) -> None:
    """Forward and backward as the trainer compiles them: every convolution's backward is for its input alone."""
    network, inputs = narrow(name)
    prepare(network, torch.bfloat16)
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    function = functools.partial(output_and_gradient, network)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(inputs)
    for a, b in zip(found, function(inputs), strict=True):
        assert (a - b).norm() / b.norm() < 2e-2
    (graph,) = graphs
    nodes = list(graph.graph.nodes)
    masks = [list(node.args[-1]) for node in nodes if node.target is aten.convolution_backward.default]
    assert len(masks) == sum(node.target is aten.convolution.default for node in nodes) > 10
    assert all(mask == [True, False, False] for mask in masks)
    # The gradient of a linear layer's weight is a matrix product of the weight's shape.
    results = {node.meta["val"].shape for node in nodes if node.target in PRODUCTS}
    assert results and not results & {parameter.shape for parameter in network.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_by_inductor(example, dtype) -> None:
    """As near to the original as eagerly; fused, half precision is rounded in other places."""
    truth = output_and_gradient(example.network, example.inputs)
    network = prepare(example.network, dtype)
    torch._dynamo.reset()
    found = output_and_gradient(torch.compile(network, fullgraph=True), example.inputs)
    for a, b, true in zip(found, output_and_gradient(network, example.inputs), truth, strict=True):
        assert (a - true).norm() <= 1.5 * (b - true).norm() + 1e-4 * true.norm()


def test_prepared_weights_do_not_take_a_file(example) -> None:
    state = example.network.state_dict()
    prepare(example.network)
    with pytest.raises(RuntimeError, match="the network is prepared, expected weights to be loaded before"):
        example.network.load_state_dict(state)
