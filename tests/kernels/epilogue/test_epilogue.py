"""The epilogue op against its formula in float64, with first and second derivatives for every input."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels.epilogue import kernels as epilogue_kernels
from smartfast.kernels.epilogue.triton import (
    finish,
    finish_backward,
    finish_op,
    launch_finish,
    launch_finish_backward,
)
from smartfast.kernels.runtime import INTERPRETED, record_launches

pytestmark = pytest.mark.skipif(
    not INTERPRETED and torch.get_default_device().type != "cuda", reason="Triton needs tensors on a GPU"
)
NAMES = ("demodulation", "noise", "bias", "next_styles")
LRELU: Any = ("lrelu", 0.2, 1.4, 0.9)
LAYOUTS = {
    "NHWC": lambda z: z.to(memory_format=torch.channels_last),
    "NCHW": lambda z: z.contiguous(),
    "strided": lambda z: torch.cat([z, z], dim=2)[:, :, : z.shape[2]],
}


def formula(
    z: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    v = z if demodulation is None else z * demodulation[:, :, None, None]
    v = v if noise is None else v + noise
    v = v if bias is None else v + bias[:, None, None]
    v = v if act == "linear" else torch.where(v > 0, v, v * (0 if act == "relu" else alpha))
    v = v * gain if clamp is None else (v * gain).clamp(-clamp, clamp)
    return v if next_styles is None else v * next_styles[:, :, None, None]


def make(
    shape: tuple[int, ...],
    rng: torch.Generator,
    given: tuple[str, ...] = NAMES,
    dtype: torch.dtype = torch.float64,
    shared_noise: bool = False,
) -> list[Any]:
    """z, demodulation, noise, bias and next_styles; None for what is not given; per-sample factors in float32."""
    n, c, h, w = shape
    shapes = dict(demodulation=(n, c), noise=(h, w) if shared_noise else (n, 1, h, w), bias=(c,), next_styles=(n, c))
    made: list[Any] = [torch.randn(shape, generator=rng).to(dtype)]
    for name, size in shapes.items():
        is_factor = name in ("demodulation", "next_styles")
        kept = torch.float32 if is_factor and dtype != torch.float64 else dtype
        made.append(torch.randn(size, generator=rng).to(kept) if name in given else None)
    return made


def gradients(
    op: Callable[..., Tensor], tensors: list[Any], upstream: Tensor, cotangents: list[Tensor]
) -> list[Tensor | None]:
    """y, its gradients, and those of the gradients' products with `cotangents`, also for the upstream gradient."""
    there = [t for t in tensors if t is not None]
    y = op(*tensors)
    first = torch.autograd.grad(y, there, upstream, create_graph=True)
    pairing = sum(((a * t).sum() for a, t in zip(first, cotangents, strict=True)), torch.zeros(()))
    second = torch.autograd.grad(pairing, [upstream, *there], allow_unused=True)
    return [y, *first, *second]


def assert_right(tensors: list[Any], constants: tuple[Any, ...], rng: torch.Generator, limit: float) -> None:
    """Compare `finish` with the formula in float64: relative norm of the result and of every derivative."""
    tensors = [t if t is None else t.detach().requires_grad_() for t in tensors]
    z = tensors[0]
    wide = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    upstream = torch.randn(z.shape, generator=rng).to(z.dtype)
    cotangents = [torch.randn(t.shape, generator=rng).to(t.dtype) for t in tensors if t is not None]
    actual = gradients(lambda *t: finish(*t, *constants), tensors, upstream.requires_grad_(), cotangents)
    expected = gradients(
        lambda *t: formula(*t, *constants),
        wide,
        upstream.detach().double().requires_grad_(),
        [t.double() for t in cotangents],
    )
    sources = [z, *(t for t in tensors if t is not None), upstream, *(t for t in tensors if t is not None)]
    for i, (ours, truth, source) in enumerate(zip(actual, expected, sources, strict=True)):
        if truth is None or not truth.any():
            assert ours is None or not ours.any(), f"derivative {i} is not zero"
            continue
        assert ours is not None, f"derivative {i} is missing"
        assert (ours.shape, ours.dtype) == (source.shape, source.dtype)
        error = (ours.double() - truth).norm() / truth.norm()
        assert error <= limit, f"derivative {i}: relative error {error:.2e}"


@pytest.fixture
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launch functions allocate holds NaN until a kernel writes it."""
    for name in ("empty", "empty_like"):
        allocate = getattr(torch, name)

        def poisoned(*args: Any, allocate: Callable[..., Tensor] = allocate, **options: Any) -> Tensor:
            return allocate(*args, **options).fill_(torch.nan)

        monkeypatch.setattr(epilogue_kernels.torch, name, poisoned)


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 70, 3, 9), (3, 8, 1, 1), (2, 2, 33, 35)], ids=str)
def test_shapes_and_layouts(shape: tuple[int, ...], layout: str, rng: torch.Generator) -> None:
    z, *others = make(shape, rng)
    z = LAYOUTS[layout](z)
    assert_right([z, *others], LRELU, rng, 1e-12)
    if layout != "strided":
        assert finish(z, *others, *LRELU).stride() == z.stride()


@pytest.mark.usefixtures("_poisoned")
def test_strips_of_several_tiles(rng: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long strips, as on large images, with an end inside a tile and tiles beyond the image."""
    monkeypatch.setattr(epilogue_kernels, "PROGRAMS_WANTED", 1)
    monkeypatch.setattr(epilogue_kernels, "LONGEST_STRIP", 4)
    monkeypatch.setattr(epilogue_kernels, "TILE", 64)
    for layout in ("NHWC", "NCHW"):
        z, *others = make((2, 5, 11, 13), rng)
        assert_right([LAYOUTS[layout](z), *others], LRELU, rng, 1e-12)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 2e-2 if INTERPRETED else 1e-2)],
    ids=str,
)
def test_dtypes(dtype: torch.dtype, limit: float, layout: str, rng: torch.Generator) -> None:
    """Triton's interpreter cuts float32 off to bfloat16 instead of rounding it, hence its limit."""
    z, *others = make((2, 6, 5, 4), rng, dtype=dtype)
    assert_right([LAYOUTS[layout](z), *others], ("lrelu", 0.2, 1.4, 4.0), rng, limit)


@pytest.mark.parametrize("constants", [("linear", 0.0, 1.0, None), ("relu", 0.0, 1.4, 0.7), ("lrelu", 0.2, -1.5, None)])
@pytest.mark.parametrize(
    "given",
    [(), ("bias",), ("noise",), ("demodulation",), ("next_styles",), NAMES[:3], NAMES[1:], ("bias", "next_styles")],
    ids=lambda given: "+".join(given) or "none",
)
def test_optional_inputs(given: tuple[str, ...], constants: tuple[Any, ...], rng: torch.Generator) -> None:
    assert_right(make((2, 3, 4, 5), rng, given), constants, rng, 1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_noise_shared_by_the_samples(batch: int, rng: torch.Generator) -> None:
    assert_right(make((batch, 4, 5, 3), rng, shared_noise=True), LRELU, rng, 1e-12)
    assert_right(make((batch, 4, 4, 4), rng, NAMES[:3], shared_noise=True), LRELU, rng, 1e-12)


def test_gradcheck(rng: torch.Generator) -> None:
    tensors = [t.requires_grad_() for t in make((2, 2, 2, 3), rng) if t is not None]
    assert gradcheck(lambda *t: finish(*t, *LRELU), tensors, fast_mode=True)
    assert gradgradcheck(lambda *t: finish(*t, *LRELU), tensors, fast_mode=True)


def test_only_what_is_wanted(rng: torch.Generator) -> None:
    """Inputs that need no gradient get none, and no sums are computed for them."""
    z, d, noise, bias, styles = make((2, 3, 4, 5), rng)
    d.requires_grad_()
    (dd,) = torch.autograd.grad(finish(z, d, noise, bias, styles, *LRELU).sum(), d)
    (truth,) = torch.autograd.grad(formula(z, d, noise, bias, styles, *LRELU).sum(), d)
    assert torch.allclose(dd, truth)
    results = finish_backward(z, z, d.detach(), noise, bias, styles, *LRELU, [False, True, False, False])
    assert [len(result) for result in results] == [2, 0, 2, 0, 0]


def test_empty_batch_and_expanded_gradient(rng: torch.Generator) -> None:
    tensors = make((0, 3, 4, 5), rng, shared_noise=True)
    given = [t.requires_grad_() for t in tensors if t is not None]
    y = finish(*given, *LRELU)
    assert y.shape == (0, 3, 4, 5)
    for t, gradient in zip(given, torch.autograd.grad(y.sum(), given), strict=True):
        assert gradient.shape == t.shape
        assert not gradient.any()
    tensors = make((2, 3, 4, 5), rng)
    given = [t.requires_grad_() for t in tensors if t is not None]
    actual = torch.autograd.grad(finish(*given, *LRELU).sum(), given)  # an upstream gradient of stride 0
    expected = torch.autograd.grad(formula(*given, *LRELU).sum(), given)
    assert all(torch.allclose(a, e) for a, e in zip(actual, expected, strict=True))


def test_not_a_number_stays_visible() -> None:
    z = torch.full((1, 1, 2, 2), torch.nan)
    for act in ("linear", "relu", "lrelu"):
        assert finish(z, None, None, None, None, act, 0.2, 1.4, 1.0).isnan().all()


def test_the_same_bits_every_time(rng: torch.Generator) -> None:
    tensors = make((2, 3, 20, 20), rng, dtype=torch.float32)
    runs = [finish_backward(tensors[0], *tensors, *LRELU, [True] * 4) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("given", [NAMES, ("demodulation", "bias"), ()], ids=lambda given: "+".join(given) or "none")
def test_registration(given: tuple[str, ...], rng: torch.Generator) -> None:
    tensors = make((2, 3, 4, 5), rng, given, dtype=torch.float32)
    tensors = [t if t is None else t.requires_grad_() for t in tensors]
    torch.library.opcheck(finish_op, (*tensors, *LRELU))
    g = torch.randn(2, 3, 4, 5, generator=rng).to(memory_format=torch.channels_last).requires_grad_()
    needs = [t is not None for t in tensors[1:]]
    torch.library.opcheck(finish_backward, (g, *tensors, *LRELU, needs))


@pytest.fixture
def traced_autograd() -> Iterator[None]:
    """torch.autograd.grad inside a compiled function needs this private switch."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize("given", [NAMES, NAMES[:3]], ids="+".join)
def test_compiled_second_order(given: tuple[str, ...], rng: torch.Generator) -> None:
    """As path length: the gradients for the styles' factors, differentiated once more."""
    z, *others = tensors = make((2, 3, 4, 5), rng, given)
    for t in tensors:
        if t is not None:
            t.requires_grad_()
    upstream = torch.randn(z.shape, generator=rng, dtype=z.dtype)
    there = [t for t in (z, others[0], others[3]) if t is not None]

    def penalty(op: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        wanted = [t for t in (tensors[0], tensors[1], tensors[4]) if t is not None]
        first = torch.autograd.grad(op(*tensors, *LRELU), wanted, upstream, create_graph=True)
        return sum((a.square().sum() for a in first), torch.zeros((), dtype=upstream.dtype))

    compiled = torch.compile(lambda *tensors: penalty(finish, *tensors), fullgraph=True, backend="aot_eager")
    actual, expected = compiled(z, *others), penalty(formula, z, *others)
    assert torch.allclose(actual, expected)
    for ours, truth in zip(torch.autograd.grad(actual, there), torch.autograd.grad(expected, there), strict=True):
        assert torch.allclose(ours, truth)


def test_launches_are_recorded_without_tensors() -> None:
    z = torch.empty(4, 64, 32, 32, dtype=torch.float16, device="meta").to(memory_format=torch.channels_last)
    d, b = torch.empty(4, 64, device="meta"), torch.empty(64, device="meta")
    with record_launches() as launches:
        y = launch_finish(z, d, None, b, None, *LRELU)
        launch_finish_backward(y, z, d, None, b, None, "lrelu", 0.2, 1.4, 0.9, [True, False, True, False])
    assert [launch.written for launch in launches] == [("y",), ("dz", "d_demodulation", "d_bias")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(act="tanh"), "act is 'tanh', expected linear, relu, lrelu"),
        (dict(z=torch.zeros(2, 3, 4)), "z has shape"),
        (dict(z=torch.zeros(2, 3, 4, 5, dtype=torch.int32)), "x is torch.int32"),
        (dict(demodulation=torch.zeros(3)), "demodulation has shape"),
        (dict(noise=torch.zeros(2, 4, 5)), "noise has shape"),
        (dict(bias=torch.zeros(4)), "bias has shape"),
        (dict(next_styles=torch.zeros(2, 4)), "next_styles has shape"),
    ],
    ids=["act", "z", "dtype", "demodulation", "noise", "bias", "next_styles"],
)
def test_errors_name_the_argument(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(
        z=torch.zeros(2, 3, 4, 5), demodulation=None, noise=None, bias=None, next_styles=None, act="linear"
    )
    with pytest.raises(ValueError, match=message):
        finish(**{**arguments, **changed}, alpha=0.0, gain=1.0, clamp=None)
