"""Attention by distance against the formula, by both implementations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartfast.kernels import l2_attention
from smartfast.kernels.l2_attention import aten, spec

pytestmark = pytest.mark.usefixtures("implementation")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SCALE = 0.6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one of heads as of queries."""
    monkeypatch.setattr(aten, "ELEMENTS", 70)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return l2_attention(q, k, v, scale=SCALE)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return spec.l2_attention(q, k, v, SCALE)


def tokens(rng: torch.Generator, *lengths: int, n: int = 2, d: int = 3, dtype: torch.dtype = torch.float32) -> list:
    return [torch.randn(n, 2, length, d, generator=rng).to(dtype).requires_grad_() for length in lengths]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_derivatives(
    dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    assert_within_budget(attend, formula, tokens(rng, 5, 7, 7, dtype=dtype), order=2)


def test_compiled(rng: torch.Generator, assert_within_budget: Callable[..., Tensor], traced_autograd: None) -> None:
    assert_within_budget(attend, formula, tokens(rng, 5, 7, 7), order=2, compiled=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("queries", "keys", "d"), [(1, 1, 1), (70, 1, 17), (3, 130, 40)], ids=str)
def test_sizes(
    queries: int,
    keys: int,
    d: int,
    dtype: torch.dtype,
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
) -> None:
    inputs = tokens(rng, queries, keys, keys, n=1, d=d, dtype=dtype)
    assert_within_budget(attend, formula, inputs, order=1, cancels=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_queries_that_are_the_keys(
    dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    """Every token is at distance 0 of itself."""
    inputs = tokens(rng, 6, 6, dtype=dtype)
    assert_within_budget(lambda x, v: attend(x, x, v), lambda x, v: formula(x, x, v), inputs, order=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identical_tokens(dtype: torch.dtype, rng: torch.Generator) -> None:
    """All distances are 0: no gradient at all, first or second, passes through them."""
    (q, v), (do,) = tokens(rng, 5, 5, d=33, dtype=dtype), tokens(rng, 5, d=33, dtype=dtype)
    q = q.detach()[:, :, :1].expand(q.shape).contiguous().requires_grad_()
    out = attend(q, q, v)
    torch.testing.assert_close(out, v.mean(dim=2, keepdim=True).expand_as(out), atol=2e-3, rtol=1e-2)
    dq, dv = torch.autograd.grad(out, (q, v), do, create_graph=True)
    assert not dq.any()
    torch.testing.assert_close(dv, do.mean(dim=2, keepdim=True).expand_as(dv), atol=2e-3, rtol=1e-2)
    (second,) = torch.autograd.grad(dq.sum(), q, retain_graph=True)
    assert not second.any()


def test_tokens_that_are_nearly_identical(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    """What they have in common does not drown what distinguishes them; the numbers are exact in float32."""
    q, k, v = (t.detach() for t in tokens(rng, 5, 7, 7))
    q, k = ((3 + 2.0**-12 * t).requires_grad_() for t in (q, k))
    assert_within_budget(attend, formula, [q, k, v.requires_grad_()], order=1)


@pytest.mark.usefixtures("poisoned")
def test_layouts(rng: torch.Generator) -> None:
    """Heads split off channels, of images in either order; the result's heads merge without a copy."""
    q, k, v = (t.detach() for t in tokens(rng, 6, 6, 6))
    out = attend(q, k, v)
    by_channel = [t.mT.contiguous().mT for t in (q, k, v)]
    by_token = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    together = torch.stack([q, k, v], dim=3)
    for strided in (by_channel, by_token, together.unbind(dim=3), [q, k[:, :1].expand_as(k), v]):
        expected = attend(*(t.contiguous() for t in strided))
        torch.testing.assert_close(attend(*strided), expected, rtol=1e-5, atol=1e-6)
    assert out.transpose(1, 2).is_contiguous()
    leaf = q.requires_grad_()
    torch.testing.assert_close(
        *(torch.autograd.grad(attend(leaf, *kv).sum(), leaf)[0] for kv in ((k, v), by_token[1:]))
    )


def test_empty(rng: torch.Generator) -> None:
    for q, k, v in (tokens(rng, 5, 7, 7, n=0), tokens(rng, 0, 7, 7)):
        out = attend(q, k, v)
        assert out.shape == q.shape
        gradients = torch.autograd.grad(out.sum(), (q, k, v))
        assert all(g.shape == t.shape and not g.any() for g, t in zip(gradients, (q, k, v), strict=True))


def test_autocast_changes_nothing(rng: torch.Generator) -> None:
    inputs = tokens(rng, 5, 7, 7)
    plain = attend(*inputs)
    gradients = torch.autograd.grad(plain.sum(), inputs)
    with torch.autocast(plain.device.type, dtype=torch.bfloat16):
        out = attend(*inputs)
        inside = torch.autograd.grad(out.sum(), inputs)
    assert torch.equal(out, plain)
    assert all(map(torch.equal, gradients, inside))


def test_registered_ops(rng: torch.Generator) -> None:
    q, k, v = tokens(rng, 5, 7, 7)
    torch.library.opcheck(aten.l2_attention_op, (q, k, v, SCALE))
    out, lse = (t.detach() for t in aten.l2_attention_op(q, k, v, SCALE))
    torch.library.opcheck(aten.gradients_op, (torch.randn_like(out), q, k, v, out, lse, SCALE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), "q is torch.float32"),
        (lambda q, k, v: (q, k[:1], v), "k is torch.float32"),
        (lambda q, k, v: (q, k, v[:, :, 1:]), r"v is .*expected torch.float32 \[2, 2, 7, 3\]"),
        (lambda q, k, v: (q, k, v.half()), "v is torch.float16"),
        (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), "expected at least one key"),
    ],
)
def test_what_does_not_fit(change: Callable[..., tuple[Tensor, ...]], message: str, rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        attend(*change(*tokens(rng, 5, 7, 7)))
