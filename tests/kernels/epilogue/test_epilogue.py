"""The epilogue op against its formula in float64, with first and second derivatives for every input."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import Activation, Epilogue, finish
from smartfast.kernels.epilogue import spec
from smartfast.kernels.epilogue import triton as module
from smartfast.kernels.epilogue.triton import finish_backward, finish_op, launch_finish, launch_finish_backward
from smartfast.kernels.runtime import record_launches

pytestmark = pytest.mark.usefixtures("implementation")
TRITON_ONLY = pytest.mark.parametrize("implementation", ["triton"], indirect=True)
NAMES = ("demodulation", "noise", "bias", "next_styles")
LRELU = Activation("lrelu", 0.2, 1.4, 0.9)
LAYOUTS = {
    "NHWC": lambda z: z.to(memory_format=torch.channels_last),
    "NCHW": lambda z: z.contiguous(),
    "strided": lambda z: torch.cat([z, z], dim=2)[:, :, : z.shape[2]],
}


def op(activation: Activation) -> Callable[..., Tensor]:
    return lambda z, *tensors: finish(z, Epilogue(*tensors, activation))


def formula(activation: Activation) -> Callable[..., Tensor]:
    return lambda z, *tensors: spec.finish(z, Epilogue(*tensors, activation))


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


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 70, 3, 9), (3, 8, 1, 1), (2, 2, 33, 35)], ids=str)
def test_shapes_and_layouts(
    shape: tuple[int, ...], layout: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    z, *others = make(shape, rng)
    z = LAYOUTS[layout](z)
    y = assert_within_budget(op(LRELU), formula(LRELU), [z, *others])
    if layout != "strided":
        memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format
        assert y.is_contiguous(memory_format=memory_format)


@TRITON_ONLY
@pytest.mark.usefixtures("poisoned")
def test_strips_of_several_tiles(
    rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, assert_within_budget: Callable[..., Tensor]
) -> None:
    """Long strips, as on large images, with an end inside a tile and tiles beyond the image."""
    monkeypatch.setattr(module, "PROGRAMS_WANTED", 1)
    monkeypatch.setattr(module, "LONGEST_STRIP", 4)
    monkeypatch.setattr(module, "TILE", 64)
    for layout in ("NHWC", "NCHW"):
        z, *others = make((2, 5, 11, 13), rng)
        assert_within_budget(op(LRELU), formula(LRELU), [LAYOUTS[layout](z), *others])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(
    dtype: torch.dtype, layout: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    activation = Activation("lrelu", 0.2, 1.4, 40.0)  # rounding moves outputs across a clamp, where gradients jump
    z, *others = make((2, 6, 5, 4), rng, dtype=dtype)
    assert_within_budget(op(activation), formula(activation), [LAYOUTS[layout](z), *others])


@pytest.mark.parametrize(
    "activation",
    [Activation(), Activation("relu", 0.0, 1.4, 0.7), Activation("lrelu", 0.2, -1.5), Activation("swish", gain=2.0)],
    ids=lambda activation: activation.act,
)
@pytest.mark.parametrize(
    "given",
    [(), ("bias",), ("noise",), ("demodulation",), ("next_styles",), NAMES[:3], NAMES[1:], ("bias", "next_styles")],
    ids=lambda given: "+".join(given) or "none",
)
def test_optional_inputs(
    given: tuple[str, ...],
    activation: Activation,
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
) -> None:
    assert_within_budget(op(activation), formula(activation), make((2, 3, 4, 5), rng, given))


@pytest.mark.parametrize("clamp", [0.1, 0.7, 0.8, 0.9])
def test_clamp_that_float32_rounds_either_way(
    clamp: float, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    activation = Activation("lrelu", 0.2, 1.4, clamp)
    assert_within_budget(op(activation), formula(activation), make((2, 3, 4, 5), rng))


@pytest.mark.parametrize("batch", [1, 3])
def test_noise_shared_by_the_samples(
    batch: int, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    for given in (NAMES, NAMES[:3]):
        tensors = make((batch, 4, 5, 3), rng, given, shared_noise=True)
        assert_within_budget(op(LRELU), formula(LRELU), tensors)


def test_gradcheck(rng: torch.Generator) -> None:
    tensors = [t.requires_grad_() for t in make((2, 2, 2, 3), rng) if t is not None]
    assert gradcheck(op(LRELU), tensors, fast_mode=True)
    assert gradgradcheck(op(LRELU), tensors, fast_mode=True)


@TRITON_ONLY
def test_only_what_is_wanted(rng: torch.Generator) -> None:
    """Inputs that need no gradient get none, and no sums are computed for them."""
    z, d, noise, bias, styles = make((2, 3, 4, 5), rng)
    d.requires_grad_()
    (dd,) = torch.autograd.grad(op(LRELU)(z, d, noise, bias, styles).sum(), d)
    (truth,) = torch.autograd.grad(formula(LRELU)(z, d, noise, bias, styles).sum(), d)
    assert torch.allclose(dd, truth)
    results = finish_backward(z, z, d.detach(), noise, bias, styles, *LRELU, [False, True, False, False])
    assert [len(result) for result in results] == [2, 0, 2, 0, 0]


def test_empty_batch_and_expanded_gradient(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    given = [t.requires_grad_() for t in make((0, 3, 4, 5), rng, shared_noise=True) if t is not None]
    y = op(LRELU)(*given)
    assert y.shape == (0, 3, 4, 5)
    for t, gradient in zip(given, torch.autograd.grad(y.sum(), given), strict=True):
        assert gradient.shape == t.shape
        assert not gradient.any()
    upstream = torch.full((), 0.7, dtype=torch.float64).expand(2, 3, 4, 5)  # of stride 0
    assert_within_budget(op(LRELU), formula(LRELU), make((2, 3, 4, 5), rng), upstream=upstream)


def test_not_a_number_stays_visible() -> None:
    z = torch.full((1, 1, 2, 2), torch.nan)
    for act in ("linear", "relu", "lrelu"):
        assert finish(z, Epilogue(activation=Activation(act, 0.2, 1.4, 1.0))).isnan().all()


@TRITON_ONLY
def test_the_same_bits_every_time(rng: torch.Generator) -> None:
    tensors = make((2, 3, 20, 20), rng, dtype=torch.float32)
    runs = [finish_backward(tensors[0], *tensors, *LRELU, [True] * 4) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@TRITON_ONLY
@pytest.mark.parametrize("given", [NAMES, ("demodulation", "bias"), ()], ids=lambda given: "+".join(given) or "none")
def test_registration(given: tuple[str, ...], rng: torch.Generator) -> None:
    tensors = make((2, 3, 4, 5), rng, given, dtype=torch.float32)
    tensors = [t if t is None else t.requires_grad_() for t in tensors]
    torch.library.opcheck(finish_op, (*tensors, *LRELU))
    g = torch.randn(2, 3, 4, 5, generator=rng).to(memory_format=torch.channels_last).requires_grad_()
    needs = [t is not None for t in tensors[1:]]
    torch.library.opcheck(finish_backward, (g, *tensors, *LRELU, needs))


@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize("given", [NAMES, NAMES[:3]], ids="+".join)
def test_compiled_second_order(
    given: tuple[str, ...], rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    assert_within_budget(op(LRELU), formula(LRELU), make((2, 3, 4, 5), rng, given), compiled=True)


@TRITON_ONLY
def test_launches_are_recorded_without_tensors() -> None:
    z = torch.empty(4, 64, 32, 32, dtype=torch.float16, device="meta").to(memory_format=torch.channels_last)
    epilogue = Epilogue(torch.empty(4, 64, device="meta"), None, torch.empty(64, device="meta"), None, LRELU)
    with record_launches() as launches:
        y = launch_finish(z, epilogue)
        launch_finish_backward(y, z, epilogue, [True, False, True, False])
    assert [launch.written for launch in launches] == [("y",), ("dz", "d_demodulation", "d_bias")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(z=torch.zeros(2, 3, 4)), r"z is torch.float32 \(2, 3, 4\)"),
        (dict(z=torch.zeros(2, 3, 4, 5, dtype=torch.int32)), "z is torch.int32"),
        (dict(demodulation=torch.zeros(3)), "demodulation has shape"),
        (dict(noise=torch.zeros(2, 4, 5)), "noise has shape"),
        (dict(bias=torch.zeros(4)), "bias has shape"),
        (dict(next_styles=torch.zeros(2, 4)), "next_styles has shape"),
    ],
    ids=["z", "dtype", "demodulation", "noise", "bias", "next_styles"],
)
def test_errors_name_the_argument(changed: dict[str, Any], message: str) -> None:
    arguments = dict(changed)
    with pytest.raises(ValueError, match=message):
        finish(arguments.pop("z", torch.zeros(2, 3, 4, 5)), Epilogue(**arguments))
