"""What only the Triton kernels of upfirdn2d have: their choice, tiles, strips and phases, and the fused epilogue.

Results are poisoned: every one starts as NaN.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels import Activation, Epilogue
from smartfast.kernels.epilogue import spec as epilogue_spec
from smartfast.kernels.runtime import record_launches
from smartfast.kernels.upfirdn2d import spec
from smartfast.kernels.upfirdn2d.op import Resampling
from smartfast.kernels.upfirdn2d.triton import (
    launch_upfirdn2d,
    upfirdn2d,
    upfirdn2d_finish,
    upfirdn2d_finish_op,
    upfirdn2d_op,
)

pytestmark = pytest.mark.usefixtures("poisoned")
BLUR = Resampling((1, 1), (1, 1), (2, 1, 1, 2))
DOWN = Resampling((1, 1), (2, 2), (1, 2, 2, 1))
UP = Resampling((2, 2), (1, 1), (2, 1, 1, 2))
DIRECT = Resampling((2, 3), (1, 2), (2, 1, 3, -1))
NHWC_KERNELS = {"blur": BLUR, "down": DOWN, "up": UP, "direct": DIRECT}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def images(shape: tuple[int, ...], rng: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=rng).to(dtype).to(memory_format=torch.channels_last)


def launched(shape: tuple[int, ...], f_shape: tuple[int, ...] | None, up: Any, down: Any, nhwc: bool) -> list[str]:
    x = torch.empty(shape, device="meta").to(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    f = None if f_shape is None else torch.empty(f_shape, device="meta")
    with record_launches() as launches:
        launch_upfirdn2d(x, f, Resampling(up, down, (3, 3, 3, 3)))
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


def both(f: Tensor | None, resampling: Resampling) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The op and its formula."""
    return lambda x: upfirdn2d(x, f, resampling), lambda x: spec.upfirdn2d(x, f, resampling)


@pytest.mark.sample(2)
@pytest.mark.parametrize("f_shape", [(4, 4), (3, 2), (1, 4), (4, 1), (3,), None], ids=str)
@pytest.mark.parametrize("kernel", ["blur", "down", "up"])
def test_filters_of_every_kind(
    kernel: str, f_shape: tuple[int, ...] | None, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    f = None if f_shape is None else torch.randn(f_shape, generator=rng)
    flip = f is not None and f.numel() % 2 == 0
    x = images((1, 8, 3, 4), rng)
    for pads in ((3, 2, 2, 3), (2, -1, -1, 3)):
        resampling = NHWC_KERNELS[kernel]._replace(pads=pads, flip_filter=flip, gain=2.5)
        assert_within_budget(*both(f, resampling), [x], order=0)


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [("blur", 9, 18), ("down", 11, 35), ("up", 5, 17), ("direct", 3, 17)]
)
def test_tails_of_tiles_and_strips(
    kernel: str, height: int, width: int, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    f, x = torch.randn(4, 4, generator=rng), images((1, 65, height, width), rng)
    with record_launches() as launches:
        launch_upfirdn2d(x, f, NHWC_KERNELS[kernel])
    assert min(launches[0].grid) > 1
    assert_within_budget(*both(f, NHWC_KERNELS[kernel]), [x], order=0)


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [("blur", 18, 66), ("down", 35, 131), ("up", 9, 34), ("direct", 12, 67)]
)
def test_tails_of_planar_tiles(
    kernel: str, height: int, width: int, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    resampling = NHWC_KERNELS[kernel]._replace(flip_filter=True, gain=1.5)
    x, f = torch.randn(1, 3, height, width, generator=rng).double(), torch.randn(4, 3, generator=rng)
    with record_launches() as launches:
        launch_upfirdn2d(x, f, resampling)
    assert min(launches[0].grid) > 1
    assert_within_budget(*both(f, resampling), [x], order=0)


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_derivatives_in_every_dtype(
    kernel: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    f, x = torch.randn(4, 4, generator=rng), images((2, 8, 6, 5), rng, dtype).requires_grad_()
    op, formula = both(f, NHWC_KERNELS[kernel]._replace(gain=4.0))
    y = assert_within_budget(op, formula, [x])
    (dx,) = torch.autograd.grad(op(x).sum(), x)
    assert y.dtype == dtype
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, dx))


def test_two_passes_round_once(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    """Between the passes of a long 1-D filter is float32: the result is the rounded float32 one."""
    f, resampling = torch.rand(12, generator=rng), Resampling((2, 1), (1, 2), (6, 5, 4, 7), gain=2.0)
    x = torch.randn(1, 2, 7, 9, generator=rng).half()
    y = assert_within_budget(*both(f, resampling), [x], order=0)
    assert torch.equal(y, upfirdn2d(x.float(), f, resampling).half())


@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_pixels_out_of_reach_do_not_count(kernel: str, rng: torch.Generator) -> None:
    """A pixel that is not finite spoils the outputs that meet it and no other."""
    op, formula = both(torch.rand(3, 2, generator=rng) + 1, NHWC_KERNELS[kernel])
    x = images((1, 8, 7, 6), rng)
    x[0, :, 3, 2] = 1e300
    x[0, :, 3, 2] *= 1e300
    reached = formula((~x.isfinite()).double()) != 0
    assert torch.equal(~op(x).isfinite(), reached)


@pytest.mark.parametrize("kernel", NHWC_KERNELS)
def test_strided_and_empty(kernel: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    op, formula = both(torch.randn(4, 8, generator=rng)[:, ::2], NHWC_KERNELS[kernel])
    base = images((3, 9, 6, 10), rng)
    for x in (base[1:2, 1:], base[:1, :, :, 1::2], base.transpose(2, 3)[:1]):
        assert_within_budget(op, formula, [x], order=1)
    assert op(base[:0]).shape == (0, *op(base).shape[1:])


def fused(
    f: Tensor, resampling: Resampling, activation: Activation
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The fused form and its formula, functions of the image and an epilogue's tensors."""

    def op(x: Tensor, *tensors: Tensor | None) -> Tensor:
        return upfirdn2d_finish(x, f, resampling, Epilogue(*tensors, activation))

    def formula(x: Tensor, *tensors: Tensor | None) -> Tensor:
        return epilogue_spec.finish(spec.upfirdn2d(x, f, resampling), Epilogue(*tensors, activation))

    return op, formula


def epilogue_tensors(
    x: Tensor, resampling: Resampling, rng: torch.Generator, shared_noise: bool = False
) -> list[Tensor]:
    """Factors in at least float32, noise and bias in the dtype of x, as a layer has them."""
    (n, c), (h, w) = x.shape[:2], resampling.size(torch.ones(4, 4), *x.shape[2:])
    shapes = [(n, c), (h, w) if shared_noise else (n, 1, h, w), (c,), (n, c)]
    wide = torch.promote_types(x.dtype, torch.float32)
    dtypes = (wide, x.dtype, x.dtype, wide)
    return [torch.randn(shape, generator=rng).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("kernel", "act", "clamp", "present", "shared_noise"),
    [
        ("blur", "lrelu", 2.0, (1, 1, 1, 1), False),
        ("blur", "linear", None, (1, 0, 0, 1), False),
        ("blur", "swish", None, (1, 1, 1, 1), False),
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
    assert_within_budget: Callable[..., Tensor],
) -> None:
    resampling = NHWC_KERNELS.get(kernel, UP)._replace(gain=2.0)
    x = images((2, 9, 2, 3), rng)
    x = x if kernel != "planar" else x.contiguous()
    possible = epilogue_tensors(x, resampling, rng, shared_noise)
    tensors = [t if there else None for t, there in zip(possible, present, strict=True)]
    both = fused(torch.randn(4, 4, generator=rng), resampling, Activation(act, 0.2, 1.4, clamp))
    assert_within_budget(*both, [x, *tensors])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nhwc", [True, False])
def test_epilogue_in_every_dtype(
    nhwc: bool, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x = images((2, 8, 5, 6), rng, dtype)
    x = x if nhwc else x.contiguous()
    both = fused(torch.rand(4, 4, generator=rng), BLUR._replace(gain=2.0), Activation("lrelu", 0.2, 1.4, 20.0))
    y = assert_within_budget(*both, [x, *epilogue_tensors(x, BLUR, rng)], order=0)
    assert y.dtype == dtype


def test_epilogue_behind_two_passes(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    x, resampling = images((1, 3, 4, 5), rng), Resampling((2, 2), (1, 1), (3, 2, 2, 3), gain=2.0)
    noise, b = torch.randn(8, 10, generator=rng).double(), torch.randn(3, generator=rng).double()
    both = fused(torch.randn(6, generator=rng), resampling, Activation("lrelu", 0.2, 1.4, 1.0))
    assert_within_budget(*both, [x, None, noise, b, None])


def test_opcheck(rng: torch.Generator, poisoned: ExitStack) -> None:
    poisoned.close()  # offsets of tensors are compared with the fake ones'
    f = torch.randn(4, 4, generator=rng)
    x = images((1, 8, 1, 2), rng, torch.float32).requires_grad_()
    torch.library.opcheck(upfirdn2d_op, (x, f, *UP))
    torch.library.opcheck(upfirdn2d_op, (x.detach().contiguous().requires_grad_(), None, *DOWN))
    tensors = [t.requires_grad_() for t in epilogue_tensors(x, BLUR, rng)]
    torch.library.opcheck(upfirdn2d_finish_op, (x, f, *BLUR, *tensors, "lrelu", 0.2, 1.4, 2.0))


@pytest.mark.usefixtures("traced_autograd")
def test_fused_form_compiles(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    """The whole path to the second derivative in one graph."""
    f, x = torch.randn(4, 4, generator=rng), images((1, 8, 1, 2), rng)
    op, formula = fused(f, UP, Activation("lrelu", 0.2, 1.4, 2.0))
    blur, blur_formula = both(f, BLUR)
    tensors = epilogue_tensors(x, UP, rng)
    assert_within_budget(lambda *t: blur(op(*t)), lambda *t: blur_formula(formula(*t)), [x, *tensors], compiled=True)
