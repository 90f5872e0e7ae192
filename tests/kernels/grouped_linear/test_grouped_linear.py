"""Linear layers of experts against the formula, by both implementations."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from smartfast.kernels import grouped_linear
from smartfast.kernels.grouped_linear import aten, spec

pytestmark = pytest.mark.usefixtures("implementation")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
COUNTS = {
    "some empty": [0, 3, 0, 0, 8, 1, 0],
    "one takes all": [0, 9, 0],
    "the last takes all": [0, 0, 9],
    "one expert": [5],
    "no rows": [0, 0],
    "several tiles": [70, 0, 129],
}


def offsets_of(counts: list[int]) -> Tensor:
    return torch.tensor([0, *accumulate(counts)])


def numbers(
    rng: torch.Generator, counts: list[int], inputs: int = 5, outputs: int = 3, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """x, weight and bias."""
    shapes = (sum(counts), inputs), (len(counts), outputs, inputs), (len(counts), outputs)
    return [torch.randn(shape, generator=rng).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_derivatives(
    dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    offsets = offsets_of(COUNTS["some empty"])
    assert_within_budget(
        lambda x, w, b: grouped_linear(x, w, b, offsets),
        lambda x, w, b: spec.grouped_linear(x, w, b, offsets),
        numbers(rng, COUNTS["some empty"], dtype=dtype),
        order=2,
        cancels=True,  # the bias has no second derivative
    )


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_experts(
    counts: list[int], has_bias: bool, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, weight, bias = numbers(rng, counts, inputs=33, outputs=70)
    offsets = offsets_of(counts)
    assert_within_budget(
        lambda x, w, b: grouped_linear(x, w, b, offsets),
        lambda x, w, b: spec.grouped_linear(x, w, b, offsets),
        [x, weight, bias if has_bias else None],
        order=1,
    )


def test_compiled(rng: torch.Generator, assert_within_budget: Callable[..., Tensor], traced_autograd: None) -> None:
    """The offsets enter the graph as a tensor; which rows an expert has compiles nothing anew."""
    x, weight, bias = numbers(rng, [2, 0, 4])
    for counts in ([2, 0, 4], [6, 0, 0]):
        offsets = offsets_of(counts)
        assert_within_budget(
            lambda x, w, b, offsets=offsets: grouped_linear(x, w, b, offsets),
            lambda x, w, b, offsets=offsets: spec.grouped_linear(x, w, b, offsets),
            [x, weight, bias],
            order=2,
            compiled=True,
            cancels=True,
        )


def test_one_graph_for_all_offsets(rng: torch.Generator) -> None:
    x, weight, bias = (t.detach() for t in numbers(rng, [2, 0, 4]))
    compiled = torch.compile(grouped_linear, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        compiled(x, weight, bias, offsets_of([2, 0, 4]))  # nothing is compiled yet
    compiled(x, weight, bias, offsets_of([2, 0, 4]))
    with torch.compiler.set_stance("fail_on_recompile"):
        for counts in ([6, 0, 0], [0, 1, 5]):
            offsets = offsets_of(counts)
            torch.testing.assert_close(
                compiled(x, weight, bias, offsets), spec.grouped_linear(x, weight, bias, offsets)
            )


@pytest.mark.usefixtures("poisoned")
def test_layouts(rng: torch.Generator) -> None:
    x, weight, bias = (t.detach() for t in numbers(rng, [2, 0, 4]))
    offsets = offsets_of([2, 0, 4])
    y = grouped_linear(x, weight, bias, offsets)
    strided = x.T.contiguous().T, weight.mT.contiguous().mT, bias.T.contiguous().T
    torch.testing.assert_close(grouped_linear(*strided, offsets), y)
    parts = torch.cat([x, x], 1)[:, :5], torch.cat([weight, weight], 1)[:, :3], torch.cat([bias, bias], 1)[:, :3]
    torch.testing.assert_close(grouped_linear(*parts, offsets), y)
    shared = weight[:1].expand_as(weight)
    torch.testing.assert_close(grouped_linear(x, shared, None, offsets), x @ weight[0].T)


def test_autocast_changes_nothing(rng: torch.Generator) -> None:
    inputs, offsets = numbers(rng, [2, 0, 4]), offsets_of([2, 0, 4])
    plain = grouped_linear(*inputs, offsets)
    gradients = torch.autograd.grad(plain.sum(), inputs)
    with torch.autocast(plain.device.type, dtype=torch.bfloat16):
        y = grouped_linear(*inputs, offsets)
        inside = torch.autograd.grad(y.sum(), inputs)
    assert torch.equal(y, plain)
    assert all(map(torch.equal, gradients, inside))


def test_registered_ops(rng: torch.Generator) -> None:
    (x, weight, bias), offsets = numbers(rng, [2, 0, 4]), offsets_of([2, 0, 4])
    torch.library.opcheck(aten.rows_op, (x, weight, bias, offsets))
    torch.library.opcheck(aten.weights_op, (torch.randn(6, 3), x, offsets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b, o: (x[0], w, b, o), "x is torch.float32"),
        (lambda x, w, b, o: (x, w[:, :, :4], b, o), r"weight is .* expected torch.float32 \[E, O, 5\]"),
        (lambda x, w, b, o: (x, w.half(), b, o), "weight is torch.float16"),
        (lambda x, w, b, o: (x, w, b[:1], o), r"bias is .* expected torch.float32 \(3, 3\)"),
        (lambda x, w, b, o: (x, w, b, o.int()), r"offsets is torch.int32 \(4,\), expected int64 \(4,\)"),
        (lambda x, w, b, o: (x, w, b, o[1:]), "offsets is"),
    ],
)
def test_what_does_not_fit(change: Callable[..., tuple[Tensor, ...]], message: str, rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        grouped_linear(*change(*numbers(rng, [2, 0, 4]), offsets_of([2, 0, 4])))


@pytest.mark.parametrize("offsets", [[0, 2, 2, 5], [1, 2, 2, 6], [0, 4, 2, 6]], ids=str)
def test_a_cpu_checks_the_offsets(offsets: list[int], rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match="numbers that never fall, from 0 to 6"):
        grouped_linear(*numbers(rng, [2, 0, 4]), torch.tensor(offsets), impl="aten")
