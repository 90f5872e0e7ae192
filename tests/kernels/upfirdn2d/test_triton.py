"""What only the Triton kernels of upfirdn2d have: their choice, tiles, strips and phases, and the fused epilogue.

The truth is the reference in float64. Results are poisoned: every one starts as NaN.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels.geometry import Pair, Quad
from smartfast.kernels.runtime import record_launches
from smartfast.kernels.score_noise import aten as reference
from smartfast.kernels.upfirdn2d.triton import (
    launch_upfirdn2d,
    upfirdn2d,
    upfirdn2d_finish,
    upfirdn2d_finish_op,
    upfirdn2d_op,
)

Options = tuple[Pair, Pair, Quad]  # up, down, padding

BLUR = ((1, 1), (1, 1), (2, 1, 1, 2))
DOWN = ((1, 1), (2, 2), (1, 2, 2, 1))
UP = ((2, 2), (1, 1), (2, 1, 1, 2))
DIRECT = ((2, 3), (1, 2), (2, 1, 3, -1))
NHWC_KERNELS: dict[str, Options] = {"blur": BLUR, "down": DOWN, "up": UP, "direct": DIRECT}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        result = empty(*args, **kwargs)
        return result.fill_(float("nan")) if result.is_floating_point() else result

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def traced_autograd() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


def images(shape: tuple[int, ...], rng: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=rng).to(dtype).to(memory_format=torch.channels_last)


def launched(shape: tuple[int, ...], f_shape: tuple[int, ...] | None, up: Any, down: Any, nhwc: bool) -> list[str]:
    x = torch.empty(shape, device="meta").to(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    f = None if f_shape is None else torch.empty(f_shape, device="meta")
    with record_launches() as launches:
        launch_upfirdn2d(x, f, up, down, (3, 3, 3, 3), False, 1.0)
    return [launch.kernel.fn.__name__ for launch in launches]


@pytest.mark.parametrize(
    ("channels", "f_shape", "up", "down", "nhwc", "expected"),
    [
        (64, (4, 4), (1, 1), (1, 1), True, ["slide_kernel"]),
        (64, (4, 4), (1, 1), (2, 2), True, ["slide_kernel"]),
        (64, (4, 4), (2, 2), (1, 1), True, ["polyphase_kernel"]),
        (64, (4,), (2, 2), (1, 1), True, ["polyphase_kernel"]),
        (9, None, (1, 1), (2, 2), True, ["slide_kernel"]),
        (64, (3, 2), (1, 1), (1, 1), True, ["slide_kernel"]),
        (3, (4, 4), (2, 2), (1, 1), True, ["direct_kernel"]),
        (64, (4, 4), (2, 2), (1, 1), False, ["direct_kernel"]),
        (64, (5, 4), (1, 1), (1, 1), True, ["direct_kernel"]),
        (64, (4, 4), (2, 1), (1, 1), True, ["direct_kernel"]),
        (64, (4, 4), (2, 2), (2, 2), True, ["direct_kernel"]),
        (64, (12,), (2, 2), (1, 1), True, ["direct_kernel", "direct_kernel"]),
        (64, (12, 12), (2, 2), (1, 1), True, ["direct_kernel"]),
    ],
    ids=str,
)
def test_which_kernel(channels: int, f_shape: Any, up: Any, down: Any, nhwc: bool, expected: list[str]) -> None:
    assert launched((2, channels, 16, 16), f_shape, up, down, nhwc) == expected


@pytest.mark.parametrize("f_shape", [(4, 4), (3, 2), (1, 4), (4, 1), (3,), None], ids=str)
@pytest.mark.parametrize("kernel", ["blur", "down", "up"])
def test_filters_of_every_kind(
    kernel: str, f_shape: tuple[int, ...] | None, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    up, down, _ = NHWC_KERNELS[kernel]
    f = None if f_shape is None else torch.randn(f_shape, generator=rng)
    flip = f is not None and f.numel() % 2 == 0
    x = images((1, 8, 3, 4), rng)
    for pads in ((3, 2, 2, 3), (2, -1, -1, 3)):
        y = upfirdn2d(x, f, up, down, pads, flip, 2.5)
        assert_near(y, reference.upfirdn2d(x, f, up, down, pads, flip, 2.5))


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [("blur", 9, 18), ("down", 11, 35), ("up", 5, 17), ("direct", 3, 17)]
)
def test_tails_of_tiles_and_strips(
    kernel: str, height: int, width: int, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    up, down, pads = NHWC_KERNELS[kernel]
    f = torch.randn(4, 4, generator=rng)
    x = images((1, 65, height, width), rng)
    with record_launches() as launches:
        launch_upfirdn2d(x, f, up, down, pads, False, 1.0)
    assert min(launches[0].grid) > 1
    assert_near(upfirdn2d(x, f, up, down, pads, False, 1.0), reference.upfirdn2d(x, f, up, down, pads, False, 1.0))


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [("blur", 18, 66), ("down", 35, 131), ("up", 9, 34), ("direct", 12, 67)]
)
def test_tails_of_planar_tiles(
    kernel: str, height: int, width: int, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    options = NHWC_KERNELS[kernel]
    x, f = torch.randn(1, 3, height, width, generator=rng).double(), torch.randn(4, 3, generator=rng)
    with record_launches() as launches:
        launch_upfirdn2d(x, f, *options, True, 1.5)
    assert min(launches[0].grid) > 1
    assert_near(upfirdn2d(x, f, *options, True, 1.5), reference.upfirdn2d(x, f, *options, True, 1.5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_dtypes(kernel: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    f = torch.randn(4, 4, generator=rng)
    x = images((2, 8, 6, 5), rng, dtype)
    y = upfirdn2d(x, f, *NHWC_KERNELS[kernel], False, 4.0)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, reference.upfirdn2d(x.double(), f, *NHWC_KERNELS[kernel], False, 4.0))


def test_two_passes_round_once(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    """Between the passes of a long 1-D filter is float32: the result is the rounded float32 one."""
    f, options = torch.rand(12, generator=rng), ((2, 1), (1, 2), (6, 5, 4, 7))
    x = torch.randn(1, 2, 7, 9, generator=rng).half()
    y = upfirdn2d(x, f, *options, False, 2.0)
    assert torch.equal(y, upfirdn2d(x.float(), f, *options, False, 2.0).half())
    assert_near(y, reference.upfirdn2d(x.double(), f, *options, False, 2.0))


@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_pixels_out_of_reach_do_not_count(kernel: str, rng: torch.Generator) -> None:
    """A pixel that is not finite spoils the outputs that meet it and no other."""
    f = torch.rand(3, 2, generator=rng) + 1
    x = images((1, 8, 7, 6), rng)
    x[0, :, 3, 2] = torch.inf
    y = upfirdn2d(x, f, *NHWC_KERNELS[kernel], False, 1.0)
    assert torch.equal(y.isfinite(), reference.upfirdn2d(x, f, *NHWC_KERNELS[kernel], False, 1.0).isfinite())


@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_strided_and_empty(kernel: str, rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    options = NHWC_KERNELS[kernel]
    f = torch.randn(4, 8, generator=rng)[:, ::2]
    base = images((3, 9, 6, 10), rng)
    for x in (base[1:2, 1:], base[:1, :, :, 1::2], base[:0], base.transpose(2, 3)[:1]):
        y = upfirdn2d(x, f, *options, False, 1.0)
        expected = reference.upfirdn2d(x, f, *options, False, 1.0)
        assert y.shape == expected.shape
        if len(x):
            assert_near(y, expected)


@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_derivatives(
    kernel: str,
    rng: torch.Generator,
    second_order: Callable[..., list[Tensor]],
    assert_near: Callable[..., None],
) -> None:
    f = torch.randn(4, 4, generator=rng)
    x = images((1, 8, 5, 6), rng).requires_grad_()
    v = images((1, 8, 5, 6), rng)
    results = []
    upstream = torch.randn_like(upfirdn2d(x, f, *NHWC_KERNELS[kernel], False, 2.0)).requires_grad_()
    for op in (upfirdn2d, reference.upfirdn2d):
        results.append(second_order(lambda x, op=op: op(x, f, *NHWC_KERNELS[kernel], False, 2.0), x, [], upstream, v))
    for actual, expected in zip(*results, strict=True):
        assert_near(actual, expected)
        assert actual.is_contiguous(memory_format=torch.channels_last)


def test_gradient_is_stored_as_the_image_is(rng: torch.Generator) -> None:
    x = images((2, 8, 5, 6), rng).requires_grad_()
    (dx,) = torch.autograd.grad(upfirdn2d(x, None, *UP, False, 1.0).sum(), x)
    assert dx.is_contiguous(memory_format=torch.channels_last)


def composition(x: Tensor, f: Tensor, options: Options, *epilogue: Any) -> Tensor:
    """The fused form out of the reference's parts."""
    d, noise, b, s, act, clamp = epilogue
    z = reference.upfirdn2d(x, f, *options, False, 2.0)
    z = z if d is None else z * d[:, :, None, None]
    z = z if noise is None else z + noise
    y = reference.bias_act(z, b, 1, act, 0.2, 1.4, clamp)
    return y if s is None else y * s[:, :, None, None]


def fused(x: Tensor, f: Tensor, options: Options, *epilogue: Any) -> Tensor:
    d, noise, b, s, act, clamp = epilogue
    return upfirdn2d_finish(x, f, *options, False, 2.0, d, noise, b, s, act, 0.2, 1.4, clamp)


def epilogue_tensors(
    x: Tensor, options: Options, rng: torch.Generator, *, shared_noise: bool = False, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    n, c = x.shape[:2]
    h, w = reference.upfirdn2d(x.double(), torch.ones(4, 4), *options, False, 1.0).shape[2:]
    shapes = [(n, c), (h, w) if shared_noise else (n, 1, h, w), (c,), (n, c)]
    return [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("kernel", "act", "clamp", "present", "shared_noise"),
    [
        ("blur", "lrelu", 2.0, (1, 1, 1, 1), False),
        ("blur", "linear", None, (1, 0, 0, 1), False),
        ("up", "lrelu", 2.0, (1, 1, 1, 0), True),
        ("down", "relu", None, (0, 1, 1, 1), False),
        ("direct", "lrelu", 2.0, (1, 1, 1, 1), True),
        ("planar", "lrelu", 2.0, (1, 1, 1, 1), False),
        ("planar", "relu", None, (0, 0, 1, 0), False),
        ("planar", "linear", 1.0, (0, 0, 0, 0), False),
    ],
    ids=str,
)
def test_epilogue_and_every_derivative(
    kernel: str,
    act: str,
    clamp: float | None,
    present: tuple[int, ...],
    shared_noise: bool,
    rng: torch.Generator,
    assert_near: Callable[..., None],
) -> None:
    options = NHWC_KERNELS.get(kernel, UP)
    f = torch.randn(4, 4, generator=rng)
    x = images((2, 9, 2, 3), rng).requires_grad_()
    x = x if kernel != "planar" else x.detach().contiguous().requires_grad_()
    possible = epilogue_tensors(x, options, rng, shared_noise=shared_noise)
    tensors = [t.requires_grad_() if there else None for t, there in zip(possible, present, strict=True)]
    inputs = [x, *(t for t in tensors if t is not None)]
    results = []
    for op in (fused, composition):
        torch.manual_seed(1)
        y = op(x, f, options, *tensors, act, clamp)
        upstream = torch.randn_like(y).requires_grad_()
        first = torch.autograd.grad(y, inputs, upstream, create_graph=True)
        projection = torch.stack([(g * torch.randn_like(g)).sum() for g in first]).sum()
        second = torch.autograd.grad(projection, [upstream, *inputs], allow_unused=True)
        results.append([y, *first, *second])
    for actual, expected in zip(*results, strict=True):
        if expected is None or not expected.any():
            assert actual is None or not actual.any()
        else:
            assert_near(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nhwc", [True, False])
def test_epilogue_in_every_dtype(
    nhwc: bool, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    """Factors in float32, noise and bias in the dtype of x, as a layer has them."""
    f = torch.rand(4, 4, generator=rng)
    x = images((2, 8, 5, 6), rng, dtype)
    x = x if nhwc else x.contiguous()
    d, noise, b, s = epilogue_tensors(x, BLUR, rng)
    tensors = (d.float(), noise.to(dtype), b.to(dtype), s.float())
    y = fused(x, f, BLUR, *tensors, "lrelu", 20.0)
    assert y.dtype == dtype
    assert_near(y, composition(x.double(), f, BLUR, *(t.double() for t in tensors), "lrelu", 20.0))


def test_epilogue_behind_two_passes(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    f, options = torch.randn(6, generator=rng), ((2, 2), (1, 1), (3, 2, 2, 3))
    x = images((1, 3, 4, 5), rng)
    z = reference.upfirdn2d(x, f, *options, False, 2.0)
    noise, b = torch.randn(z.shape[2:], generator=rng).double(), torch.randn(3, generator=rng).double()
    y = fused(x, f, options, None, noise, b, None, "lrelu", 1.0)
    assert_near(y, composition(x, f, options, None, noise, b, None, "lrelu", 1.0))


def test_epilogue_names_a_wrong_activation(rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match="act is 'tanh', expected linear, relu or lrelu"):
        fused(images((1, 8, 4, 4), rng), torch.ones(4, 4), BLUR, None, None, None, None, "tanh", None)


def test_opcheck(rng: torch.Generator) -> None:
    f = torch.randn(4, 4, generator=rng)
    x = images((1, 8, 1, 2), rng, torch.float32).requires_grad_()
    torch.library.opcheck(upfirdn2d_op, (x, f, *UP, False, 1.0))
    torch.library.opcheck(upfirdn2d_op, (x.detach().contiguous().requires_grad_(), None, *DOWN, False, 1.0))
    tensors = [t.requires_grad_() for t in epilogue_tensors(x, BLUR, rng, dtype=torch.float32)]
    torch.library.opcheck(upfirdn2d_finish_op, (x, f, *BLUR, False, 1.0, *tensors, "lrelu", 0.2, 1.4, 2.0))


def test_fused_form_compiles(
    traced_autograd: None,
    rng: torch.Generator,
    second_order: Callable[..., list[Tensor]],
    assert_near: Callable[..., None],
) -> None:
    """The whole path to the second derivative in one graph."""
    f = torch.randn(4, 4, generator=rng)
    x = images((1, 8, 1, 2), rng).requires_grad_()
    tensors = [t.requires_grad_() for t in epilogue_tensors(x, UP, rng)]
    v = images((1, 8, 1, 2), rng)

    def op(x: Tensor, *tensors: Tensor) -> Tensor:
        return upfirdn2d(fused(x, f, UP, *tensors, "lrelu", 2.0), f, *BLUR, False, 1.0)

    upstream = torch.randn_like(op(x, *tensors)).requires_grad_()

    def phase(x: Tensor, upstream: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = op(x, *tensors)
        (dx,) = torch.autograd.grad(y, x, upstream, create_graph=True)
        return y, dx, (dx * v).sum()

    y, dx, projection = torch.compile(phase, fullgraph=True, backend="aot_eager")(x, upstream, *tensors)
    rest = torch.autograd.grad(projection, [upstream, *tensors], allow_unused=True)
    for actual, expected in zip([y, dx, *rest], second_order(op, x, tensors, upstream, v), strict=True):
        if expected.any():
            assert_near(actual, expected)
        else:
            assert actual is None or not actual.any()
