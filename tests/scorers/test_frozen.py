"""What a frozen scorer computes: one graph, no gradient of a weight, and in half precision the gradient of float32."""

import functools
from collections import Counter

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.data.sources.digits import load_digits
from smartfast.scorers import UNetScorer, load_scorer
from smartfast.scorers.schedule import schedule_from_config
from smartfast.scorers.term import score_loss

aten = torch.ops.aten
MATRIX_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


class GradientWork(TorchDispatchMode):
    """Counts convolution backwards and matrix products by whether they give gradients of weights.

    A linear layer multiplies its input, or the gradient of its output, by its weight; the gradient of the weight is
    the one product of two tensors of which neither is a weight.
    """

    def __init__(self, weights) -> None:
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten.convolution_backward.default:
            for name, is_computed in zip(("input", "weight", "bias"), args[-1], strict=True):
                self.counts[f"convolution, {name}"] += is_computed
        elif func in MATRIX_PRODUCTS:
            factors = {factor.untyped_storage().data_ptr() for factor in args[-2:]}
            self.counts["linear, input" if factors & self.weights else "linear, weight"] += 1
        return func(*args, **kwargs or {})


def gradient_of_score(scorer, images, loss_function=score_loss):
    stream, labels = torch.arange(len(images)), torch.arange(len(images)) % 4
    t = torch.full((len(images),), 30)
    loss = loss_function(scorer, images, labels, t, seed=3, stream=stream, purpose=8)
    return loss.detach(), torch.autograd.grad(loss.sum(), images)[0]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def scorer(request, tiny_unet):
    unet = tiny_unet(num_class_embeds=4)
    return UNetScorer(unet, schedule_from_config({}, "test"), parameterization="eps", dtype=request.param)


def leaf_images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)


def convolutions(scorer) -> int:
    return sum(isinstance(module, torch.nn.Conv2d) for module in scorer.unet.modules())


def attention_projections(scorer) -> int:
    return sum(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name, _ in scorer.unet.named_modules())


def test_the_count_sees_gradients_of_weights(scorer) -> None:
    """Of a network that is not frozen, so that the tests below mean something."""
    scorer.requires_grad_(True)
    images = leaf_images()
    loss = score_loss(
        scorer, images, torch.tensor([0, 1]), torch.tensor([30, 30]), seed=3, stream=torch.arange(2), purpose=8
    )
    work = GradientWork(scorer.parameters())
    with work:
        loss.sum().backward()
    assert work.counts["convolution, weight"] == convolutions(scorer)
    assert work.counts["linear, weight"] > attention_projections(scorer) > 0


def test_backward_computes_no_gradient_of_a_weight(scorer) -> None:
    images, stream = leaf_images(), torch.arange(2)
    loss = score_loss(scorer, images, stream, torch.tensor([30, 30]), seed=3, stream=stream, purpose=8)
    work = GradientWork(scorer.parameters())
    with work:
        loss.sum().backward()
    # Time and class layers are not among the linear ones: they do not depend on the image.
    expected = {"convolution, input": convolutions(scorer), "linear, input": attention_projections(scorer)}
    assert +work.counts == expected


@pytest.mark.slow
@pytest.mark.parametrize("scorer", [torch.bfloat16], indirect=True)
def test_compiled_phase_computes_no_gradient_of_a_weight(scorer) -> None:
    """Forward and backward as the trainer compiles them, in one graph, whose operations are counted as they run."""
    eager, compiled = GradientWork(scorer.parameters()), GradientWork(scorer.parameters())
    graphs = []

    def capture(graph, example_inputs):
        graphs.append(graph)

        def run(*inputs):
            with compiled:
                return graph(*inputs)

        return run

    function = functools.partial(gradient_of_score, scorer)
    with eager:
        expected = function(leaf_images())
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=capture))(leaf_images())
    assert len(graphs) == 1
    for found_part, expected_part in zip(found, expected, strict=True):
        assert (found_part - expected_part).norm() / expected_part.norm() < 1e-2
    assert compiled.counts["convolution, input"] == eager.counts["convolution, input"] == convolutions(scorer)
    assert compiled.counts["convolution, weight"] == compiled.counts["convolution, bias"] == 0
    assert compiled.counts["linear, input"] > attention_projections(scorer) and not compiled.counts["linear, weight"]


@pytest.mark.slow
@pytest.mark.parametrize("scorer", [torch.bfloat16], indirect=True)
def test_network_is_one_graph(scorer) -> None:
    images, t, labels = leaf_images(), torch.tensor([25, 30]), torch.tensor([1, 2])
    compiled = torch.compile(scorer.network, fullgraph=True, backend="aot_eager")(images, t, labels)
    expected = scorer.network(images, t, labels)
    assert (compiled - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("timesteps", [(25, 35), (25, 250)])
def test_gradient_in_half_precision(precision, timesteps) -> None:
    """Of digits that are slightly off, as a generator's are, at SMaRt's timesteps and at the digits preset's."""
    images, labels = (part[:32] for part in load_digits(16))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    stream = torch.arange(32)
    t = draw_timesteps(0, stream, *timesteps)
    gradients = []
    for kind in ("fp32", precision):
        leaf = (images.float() / 127.5 - 1 + 0.05 * noise).requires_grad_(True)
        loss = score_loss(
            load_scorer("digits", precision=kind), leaf, labels, t, seed=0, stream=stream, purpose=Purpose.SCORE_NOISE
        )
        gradients.append(torch.autograd.grad(loss.mean(), leaf)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) >= 0.999
    assert gradients[1].norm() / gradients[0].norm() == pytest.approx(1, abs=1e-2)
