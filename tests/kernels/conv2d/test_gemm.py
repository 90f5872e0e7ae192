"""The implicit-GEMM convolution and its derivatives against a float64 convolution; in the interpreter without a GPU."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels import Activation, Epilogue
from smartfast.kernels.conv2d import kernels as gemm_kernels
from smartfast.kernels.conv2d import spec
from smartfast.kernels.conv2d.gemm import conv_gemm, conv_gemm_op, finish_gradient_op
from smartfast.kernels.conv2d.kernels import Tile, choose_tile, launch_conv_gemm, rounded_clamp
from smartfast.kernels.conv2d.op import Convolution
from smartfast.kernels.epilogue import spec as epilogue_spec
from smartfast.kernels.runtime import record_launches

pytestmark = pytest.mark.usefixtures("poisoned")
DEVICE = torch.get_default_device().type
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="bfloat16 products are wrong in Triton's interpreter")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=on_a_gpu)]
LRELU = Activation("lrelu", 0.2, 1.4)
SIZES = {  # n, c_in, c_out, height, width, kernel
    "whole tiles": (2, 32, 16, 8, 8, 3),
    "odd": (3, 20, 24, 7, 9, 3),
    "one pixel, one channel": (2, 1, 1, 1, 1, 3),
    "one row": (1, 5, 3, 1, 21, 3),
    "one column": (1, 5, 3, 21, 1, 3),
    "tiles of pixels": (1, 3, 7, 13, 21, 3),
    "tiles of channels": (1, 70, 134, 3, 5, 3),
    "pointwise": (2, 70, 9, 6, 5, 1),
}
D, N, B, S = NAMES = ("demodulation", "noise", "bias", "next_styles")
EPILOGUES = {  # names that are given, and the activation
    "none": ((), Activation()),
    "linear, clamped": ((D,), Activation("linear", clamp=0.7)),
    "bias, relu": ((B,), Activation("relu", 0.0, 1.4)),
    "noise, lrelu": ((N,), LRELU),
    "all but noise": ((D, B), LRELU),
    "all, relu, clamped": ((D, N, B), Activation("relu", 0.0, 2.0, 1.3)),
    "all, lrelu, clamped": ((D, N, B), LRELU._replace(clamp=1.3)),
    "all, lrelu without slope": ((D, N, B), Activation("lrelu")),
    "styles": ((S,), Activation()),
    "bias and styles, clamped": ((B, S), LRELU._replace(clamp=1.3)),
    "all and styles, clamped": (NAMES, LRELU._replace(clamp=1.3)),
    "all and styles, swish": (NAMES, Activation("swish", gain=1.4)),
}
ALL = EPILOGUES["all and styles, clamped"]


def make(
    size: tuple[int, ...],
    rng: torch.Generator,
    given: tuple[str, ...] = NAMES,
    dtype: torch.dtype = torch.float32,
    shared_noise: bool = False,
) -> list[Tensor | None]:
    """Random x, weight, demodulation, noise, bias and next_styles, None for what is not given.

    In `dtype`, but factors per sample in float32.
    """
    n, c_in, c_out, height, width, kernel = size
    x = torch.randn(n, c_in, height, width, generator=rng)
    weight = torch.randn(c_out, c_in, kernel, kernel, generator=rng) / (c_in * kernel**2) ** 0.5
    styles = torch.randn(n, c_out, generator=rng)
    styles[:, :1] = 0  # where y tells nothing
    epilogue = dict(
        demodulation=torch.rand(n, c_out, generator=rng) + 0.5,
        noise=(torch.randn((height, width) if shared_noise else (n, 1, height, width), generator=rng) / 2).to(dtype),
        bias=(torch.randn(c_out, generator=rng) / 2).to(dtype),
        next_styles=styles,
    )
    tensors = [x.to(dtype), weight.to(dtype), *(t if name in given else None for name, t in epilogue.items())]
    return [None if t is None else t.to(DEVICE) for t in tensors]


def both(activation: Activation, precision: str = "ieee") -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The op and its formula, functions of x, weight and an epilogue's tensors."""

    def op(x: Tensor, weight: Tensor, *tensors: Tensor | None) -> Tensor:
        return conv_gemm(x, weight, Epilogue(*tensors, activation), precision)

    def formula(x: Tensor, weight: Tensor, *tensors: Tensor | None) -> Tensor:
        pad = weight.shape[2] // 2
        return epilogue_spec.finish(
            spec.conv2d(x, weight, Convolution(padding=(pad, pad))), Epilogue(*tensors, activation)
        )

    return op, formula


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_value(
    size: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    tensors = make(SIZES[size], rng, dtype=dtype, shared_noise=size == "odd")
    assert assert_within_budget(*both(ALL[1]), tensors, order=0).dtype == dtype


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("kernel", [1, 3])
def test_derivatives(
    epilogue: str,
    kernel: int,
    dtype: torch.dtype,
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
) -> None:
    given, activation = EPILOGUES[epilogue]
    if dtype != torch.float32:
        activation = activation._replace(clamp=None)  # rounding moves outputs across it, where the gradient jumps
    tensors = make((2, 6, 5, 7, 9, kernel), rng, given, dtype, shared_noise=kernel == 1)
    # d * z is recovered from level, so that a second derivative of 0 is a sum of terms that cancel.
    assert_within_budget(*both(activation), tensors, cancels=True)


def test_gradient_of_the_clamp_in_half_precision(rng: torch.Generator) -> None:
    """A clamp that float16 cannot store is seen in the stored output: no gradient passes there, all elsewhere."""
    x, weight, *_ = make((1, 16, 16, 4, 4, 3), rng, dtype=torch.float16)
    bias = torch.zeros(16, device=DEVICE, dtype=torch.float16).requires_grad_()
    y = conv_gemm(x, weight, Epilogue(bias=bias, activation=Activation(clamp=0.7003)), "ieee")
    (gradient,) = torch.autograd.grad(y, bias, torch.ones_like(y))
    inside = spec.conv2d(x.double(), weight.double(), Convolution(padding=(1, 1))).abs() < 0.7003
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(gradient.double(), inside.sum(dim=(0, 2, 3)).double())


@pytest.mark.parametrize(("clamp", "dtype"), [(0.7003, torch.float16), (1.3, torch.bfloat16), (256.1, torch.float32)])
def test_clamp_is_rounded_as_the_dtype_rounds(clamp: float, dtype: torch.dtype) -> None:
    assert rounded_clamp(clamp, dtype) == torch.tensor(clamp, dtype=dtype).item() != clamp


@pytest.mark.parametrize("tile", [Tile(128, 256, 16, 8, 3), Tile(16, 16, 16, 4, 3)], ids=["in halves", "small"])
def test_other_tiles(
    tile: Tile, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, assert_within_budget: Callable[..., Tensor]
) -> None:
    monkeypatch.setattr(gemm_kernels, "choose_tile", lambda *_: tile)
    size = (2, 17, 18, 5, 7, 3) if tile.channels == 16 else (1, 17, 300, 11, 13, 3)
    assert_within_budget(*both(ALL[1]), make(size, rng), order=0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_numbers_stay_where_they_belong(rng: torch.Generator) -> None:
    """A pixel reaches its neighbours, a weight its channel; not what lies next in memory, behind rows and channels."""
    x, weight, *_ = make(SIZES["odd"], rng)
    x[0, :, 3, 0] = torch.nan
    x[1, :, 3, 8] = weight[5] = torch.inf
    y = conv_gemm(x, weight, Epilogue(), "ieee")
    reached = torch.zeros(y.shape, dtype=torch.bool, device=DEVICE)
    reached[0, :, 2:5, :2] = reached[1, :, 2:5, 7:] = reached[:, 5] = True
    assert torch.equal(~y.isfinite(), reached)


def test_tf32(rng: torch.Generator) -> None:
    """Products of 10 bits of mantissa, summed in float32; the interpreter's have all 23."""
    op, formula = both(LRELU, "tf32")
    tensors = [t.requires_grad_() for t in make(SIZES["odd"], rng)]
    truths = [t.detach().double().requires_grad_() for t in tensors]
    y, expected = op(*tensors), formula(*truths)
    upstream = torch.randn(y.shape, generator=rng).to(DEVICE)
    gradients = torch.autograd.grad(y, tensors, upstream)
    truths = torch.autograd.grad(expected, truths, upstream.double())
    for actual, truth in zip([y, *gradients], [expected, *truths], strict=True):
        assert (actual.double() - truth).norm() <= 1e-3 * truth.norm()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "strided", "broadcast"])
def test_layouts(layout: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    x, weight, *epilogue = make(SIZES["odd"], rng)
    if layout == "NHWC":
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    if layout == "strided":
        x = torch.stack([x, x], dim=4).flatten(3)[..., ::2]
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "broadcast":
        x, epilogue[1] = x[:1].expand_as(x), epilogue[1][:1].expand_as(epilogue[1])
    upstream = torch.tensor(0.7, device=DEVICE).expand(3, 24, 7, 9)  # of stride 0
    y = assert_within_budget(*both(ALL[1]), [x, weight, *epilogue], upstream=upstream)
    assert y.is_contiguous(memory_format=torch.channels_last) == (layout == "NHWC")


def test_no_images(rng: torch.Generator) -> None:
    tensors = [t.requires_grad_() for t in make((0, 3, 4, 5, 5, 3), rng)]
    y = both(ALL[1])[0](*tensors)
    assert y.shape == (0, 4, 5, 5)
    gradients = torch.autograd.grad(y, tensors, torch.zeros_like(y))
    assert [g.shape for g in gradients] == [t.shape for t in tensors]
    assert not any(g.any() for g in gradients)


def test_the_level_is_written_for_a_backward_pass_alone(rng: torch.Generator) -> None:
    x, weight, *tensors = make(SIZES["odd"], rng)
    for needs_gradient in (False, True):
        weight.requires_grad_(needs_gradient)
        with record_launches() as launches:
            conv_gemm(x, weight, Epilogue(*tensors, LRELU), "ieee")
        assert launches[0].written == (("y", "level") if needs_gradient else ("y",))


@pytest.mark.parametrize("epilogue", ["none", "all, lrelu, clamped", "all and styles, clamped"])
def test_opcheck(epilogue: str, rng: torch.Generator, poisoned: ExitStack) -> None:
    poisoned.close()  # offsets of tensors are compared with the fake ones'
    given, activation = EPILOGUES[epilogue]
    tensors = [t if t is None else t.requires_grad_() for t in make((2, 3, 4, 3, 5, 3), rng, given)]
    torch.library.opcheck(conv_gemm_op, (*tensors, *activation, "ieee", S in given))
    level, dy = (torch.rand(2, 4, 3, 5, generator=rng).to(DEVICE).requires_grad_() for _ in range(2))
    torch.library.opcheck(finish_gradient_op, (dy, level, *tensors[2:], *activation))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("traced_autograd")
def test_compiled_second_order(
    dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    assert_within_budget(*both(LRELU), make((2, 3, 4, 5, 5, 3), rng, dtype=dtype), compiled=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4, 5).double()), "x is torch.float64"),
        (dict(x=torch.zeros(2, 3, 4)), "x has shape"),
        (dict(weight=torch.zeros(6, 3, 3, 3).half()), "weight is torch.float16"),
        (dict(weight=torch.zeros(6, 4, 3, 3)), "weight has shape"),
        (dict(weight=torch.zeros(6, 3, 5, 5)), "weight has shape"),
        (dict(epilogue=Epilogue(demodulation=torch.zeros(2, 3))), "demodulation has shape"),
        (dict(epilogue=Epilogue(noise=torch.zeros(1, 1, 4, 5))), "noise has shape"),
        (dict(epilogue=Epilogue(next_styles=torch.zeros(2, 3))), "next_styles has shape"),
        (dict(epilogue=Epilogue(activation=Activation(gain=-1.0))), "gain is -1.0"),
        (dict(epilogue=Epilogue(activation=Activation("lrelu", -0.2))), "alpha -0.2"),
        (dict(precision="bf16"), "precision is 'bf16'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    usual = dict(x=torch.zeros(2, 3, 4, 5), weight=torch.zeros(6, 3, 3, 3), epilogue=Epilogue(), precision="ieee")
    with pytest.raises(ValueError, match=message):
        conv_gemm(**(usual | change))


@pytest.mark.parametrize(
    ("capability", "kib"), [((8, 0), 163), ((8, 6), 99), ((9, 0), 227), ((10, 0), 227), ((12, 0), 99)], ids=str
)
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float16, "ieee"), (torch.float32, "tf32")], ids=str)
def test_stages_fit_in_shared_memory(capability: tuple[int, int], kib: int, dtype: torch.dtype, precision: str) -> None:
    for resolution in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        for channels in (3, 32, 64, 128, 256, 512, 1024):
            tile = choose_tile(8, resolution**2, channels, channels, dtype, precision, capability)
            stage = (tile.pixels + tile.channels) * tile.depth * dtype.itemsize
            assert tile.num_stages * stage <= kib * 1024


def test_launch_takes_meta_tensors() -> None:
    x = torch.empty(2, 512, 32, 32, device="meta", dtype=torch.float16)
    weight = torch.empty(256, 512, 3, 3, device="meta", dtype=torch.float16)
    with record_launches() as launches:
        y, _ = launch_conv_gemm(x, weight, Epilogue(), "ieee", capability=(8, 0))
    assert y.shape == (2, 256, 32, 32)
    (launch,) = launches
    assert launch.grid == (2 * 8 * 2,)
    assert launch.written == ("y",)
