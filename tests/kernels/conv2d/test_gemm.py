"""The implicit-GEMM convolution and its derivatives against a float64 convolution; in the interpreter without a GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.kernels.conv2d import kernels as conv_gemm_kernels
from smartfast.kernels.conv2d.gemm import conv_gemm, launch_conv_gemm
from smartfast.kernels.conv2d.kernels import Tile, choose_tile, rounded_clamp
from smartfast.kernels.runtime import record_launches

DEVICE = torch.get_default_device().type
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="bfloat16 products are wrong in Triton's interpreter")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=on_a_gpu)]
NAMES = ("x", "weight", "demodulation", "noise", "bias", "next_styles")
LRELU = ("lrelu", 0.2, 1.4, None)
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
EPILOGUES = {  # names that are given; act, alpha, gain, clamp
    "none": ((), ("linear", 0.0, 1.0, None)),
    "linear, clamped": (("demodulation",), ("linear", 0.0, 1.0, 0.7)),
    "bias, relu": (("bias",), ("relu", 0.0, 1.4, None)),
    "noise, lrelu": (("noise",), LRELU),
    "all but noise": (("demodulation", "bias"), LRELU),
    "all, relu, clamped": (("demodulation", "noise", "bias"), ("relu", 0.0, 2.0, 1.3)),
    "all, lrelu, clamped": (("demodulation", "noise", "bias"), ("lrelu", 0.2, 1.4, 1.3)),
    "styles": (("next_styles",), ("linear", 0.0, 1.0, None)),
    "bias and styles, clamped": (("bias", "next_styles"), ("lrelu", 0.2, 1.4, 1.3)),
    "all and styles, clamped": (("demodulation", "noise", "bias", "next_styles"), ("lrelu", 0.2, 1.4, 1.3)),
    "all, lrelu without slope": (("demodulation", "noise", "bias"), ("lrelu", 0.0, 1.0, None)),
}
ALL = EPILOGUES["all and styles, clamped"]


@pytest.fixture
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launch functions allocate holds NaN until a kernel writes it."""
    for name in ("empty", "empty_like"):
        allocate = getattr(torch, name)

        def poisoned(*args: Any, allocate: Callable[..., Tensor] = allocate, **options: Any) -> Tensor:
            return allocate(*args, **options).fill_(torch.nan)

        monkeypatch.setattr(conv_gemm_kernels.torch, name, poisoned)


def make(
    size: tuple[int, ...], rng: torch.Generator, given: tuple[str, ...] = ALL[0], shared_noise: bool = False
) -> list[Tensor | None]:
    """Random float64 x, weight, demodulation, noise and bias; None for what is not given."""
    n, c_in, c_out, height, width, kernel = size
    x = torch.randn(n, c_in, height, width, generator=rng)
    weight = torch.randn(c_out, c_in, kernel, kernel, generator=rng) / (c_in * kernel**2) ** 0.5
    epilogue = dict(
        demodulation=torch.rand(n, c_out, generator=rng) + 0.5,
        noise=torch.randn((height, width) if shared_noise else (n, 1, height, width), generator=rng) / 2,
        bias=torch.randn(c_out, generator=rng) / 2,
        next_styles=torch.randn(n, c_out, generator=rng),
    )
    epilogue["next_styles"][:, :1] = 0  # where y tells nothing
    tensors = [x, weight, *(tensor if name in given else None for name, tensor in epilogue.items())]
    return [None if t is None else t.double().to(DEVICE) for t in tensors]


def definition(
    x: Tensor,
    weight: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    precision: str = "ieee",
) -> Tensor:
    v = F.conv2d(x, weight, padding=weight.shape[2] // 2)
    if demodulation is not None:
        v = v * demodulation[:, :, None, None]
    if noise is not None:
        v = v + noise
    if bias is not None:
        v = v + bias[:, None, None]
    v = {"linear": v, "relu": F.relu(v), "lrelu": F.leaky_relu(v, alpha)}[act] * gain
    v = v if clamp is None else v.clamp(-clamp, clamp)
    return v if next_styles is None else v * next_styles[:, :, None, None]


def pair(tensors: list[Tensor | None], dtype: torch.dtype) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Leaves in `dtype` (factors per sample in float32) and the same values in float64."""
    dtypes = [torch.float32 if name in ("demodulation", "next_styles") else dtype for name in NAMES]
    ours = [None if t is None else t.to(d).requires_grad_() for t, d in zip(tensors, dtypes, strict=True)]
    return ours, [None if t is None else t.detach().double().requires_grad_() for t in ours]


def present(tensors: list[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def assert_all_near(actual: list[Tensor], expected: list[Tensor], limit: float) -> None:
    """By relative norm; where the truth is 0, relative to the largest of the others."""
    largest = max(t.norm() for t in expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a.double() - e).norm() <= limit * (e.norm() or largest)


def limit(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("_poisoned")
def test_value(size: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    ours, truths = pair(make(SIZES[size], rng, shared_noise=size == "odd"), dtype)
    y = conv_gemm(*ours, *ALL[1])
    assert y.dtype == dtype
    assert_all_near([y], [definition(*truths, *ALL[1])], limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.usefixtures("_poisoned")
def test_gradients(epilogue: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    given, options = EPILOGUES[epilogue]
    if dtype != torch.float32:
        options = (*options[:3], None)  # rounding moves outputs across the clamp, where the gradient jumps
    ours, truths = pair(make(SIZES["odd"], rng, given), dtype)
    y, expected = conv_gemm(*ours, *options), definition(*truths, *options)
    upstream = torch.randn(expected.shape, generator=rng).to(DEVICE, dtype)
    gradients = torch.autograd.grad(y, present(ours), upstream)
    assert [g.dtype for g in gradients] == [t.dtype for t in present(ours)]
    assert_all_near(gradients, torch.autograd.grad(expected, present(truths), upstream.double()), limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("kernel", [1, 3])
def test_second_order(epilogue: str, kernel: int, dtype: torch.dtype, rng: torch.Generator) -> None:
    """Gradients for the upstream gradient and all inputs of a random projection of all first gradients."""
    given, options = EPILOGUES[epilogue]
    if dtype != torch.float32:
        options = (*options[:3], None)
    shared_noise = kernel == 1
    ours, truths = pair(make((2, 6, 5, 5, 3, kernel), rng, given, shared_noise), dtype)
    upstream = torch.randn(2, 5, 5, 3, generator=rng).to(DEVICE, dtype).requires_grad_()
    weights = [torch.randn(t.shape, generator=rng).to(DEVICE, t.dtype) for t in present(ours)]

    def differentiate_twice(op: Callable[..., Tensor], tensors: list[Tensor | None], upstream: Tensor) -> list[Tensor]:
        leaves = present(tensors)
        first = torch.autograd.grad(op(*tensors, *options), leaves, upstream, create_graph=True)
        projection = sum((g.double() * w.double()).sum() for g, w in zip(first, weights, strict=True))
        second = torch.autograd.grad(projection, [upstream, *leaves], allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(second, [upstream, *leaves], strict=True)]

    expected = differentiate_twice(definition, truths, upstream.detach().double().requires_grad_())
    assert_all_near(differentiate_twice(conv_gemm, ours, upstream), expected, limit(dtype))


def test_gradient_of_the_clamp_in_half_precision(rng: torch.Generator) -> None:
    """A clamp that float16 cannot store is seen in the stored output: no gradient passes there, all elsewhere."""
    x, weight, *_ = make((1, 16, 16, 4, 4, 3), rng)
    x, weight = x.half(), weight.half()
    bias = torch.zeros(16, device=DEVICE, dtype=torch.float16).requires_grad_()
    y = conv_gemm(x, weight, bias=bias, clamp=0.7003)
    (gradient,) = torch.autograd.grad(y, bias, torch.ones_like(y))
    inside = definition(x.double(), weight.double(), None, None, None, None, "linear", 0.0, 1.0, None).abs() < 0.7003
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(gradient.double(), inside.sum(dim=(0, 2, 3)).double())


@pytest.mark.parametrize(("clamp", "dtype"), [(0.7003, torch.float16), (1.3, torch.bfloat16), (256.1, torch.float32)])
def test_clamp_is_rounded_as_the_dtype_rounds(clamp: float, dtype: torch.dtype) -> None:
    assert rounded_clamp(clamp, dtype) == torch.tensor(clamp, dtype=dtype).item() != clamp


@pytest.mark.parametrize("tile", [Tile(128, 256, 16, 8, 3), Tile(16, 16, 16, 4, 3)], ids=["in halves", "small"])
@pytest.mark.usefixtures("_poisoned")
def test_other_tiles(tile: Tile, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_gemm_kernels, "choose_tile", lambda *_: tile)
    ours, truths = pair(
        make((2, 17, 18, 5, 7, 3) if tile.channels == 16 else (1, 17, 300, 11, 13, 3), rng), torch.float32
    )
    assert_all_near([conv_gemm(*ours, *ALL[1])], [definition(*truths, *ALL[1])], 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_numbers_stay_where_they_belong(rng: torch.Generator) -> None:
    """A pixel reaches its neighbours, a weight its channel; not what lies next in memory, behind rows and channels."""
    x, weight, *_ = make(SIZES["odd"], rng)
    x[0, :, 3, 0] = torch.nan
    x[1, :, 3, 8] = weight[5] = torch.inf
    y = conv_gemm(x.float(), weight.float())
    reached = torch.zeros(y.shape, dtype=torch.bool, device=DEVICE)
    reached[0, :, 2:5, :2] = reached[1, :, 2:5, 7:] = reached[:, 5] = True
    assert torch.equal(~y.isfinite(), reached)


def test_tf32(rng: torch.Generator) -> None:
    ours, truths = pair(make(SIZES["odd"], rng), torch.float32)
    y, expected = conv_gemm(*ours, *LRELU, "tf32"), definition(*truths, *LRELU)
    assert_all_near([y], [expected], 1e-3)
    upstream = torch.randn(y.shape, generator=rng).to(DEVICE)
    gradients = torch.autograd.grad(y, present(ours), upstream)
    assert_all_near(gradients, torch.autograd.grad(expected, present(truths), upstream.double()), 1e-3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "strided", "broadcast"])
def test_layouts(layout: str, rng: torch.Generator) -> None:
    ours, _ = pair(make(SIZES["odd"], rng), torch.float32)
    x, weight, *epilogue = (t.detach() for t in present(ours))
    if layout == "NHWC":
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    if layout == "strided":
        x = torch.stack([x, x], dim=4).flatten(3)[..., ::2]
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "broadcast":
        x, epilogue[1] = x[:1].expand_as(x), epilogue[1][:1].expand_as(epilogue[1])
    ours = [x.requires_grad_(), weight.requires_grad_(), *epilogue]
    y = conv_gemm(*ours, *ALL[1])
    expected = definition(*(t.double() for t in ours), *ALL[1])
    assert y.is_contiguous(memory_format=torch.channels_last) == (layout == "NHWC")
    assert_all_near([y], [expected], 1e-5)
    # The gradient of a sum has stride 0.
    assert_all_near(torch.autograd.grad(y.sum(), ours[:2]), torch.autograd.grad(expected.sum(), ours[:2]), 1e-5)


def test_no_images(rng: torch.Generator) -> None:
    ours, _ = pair(make((0, 3, 4, 5, 5, 3), rng), torch.float32)
    y = conv_gemm(*ours, *ALL[1])
    assert y.shape == (0, 4, 5, 5)
    gradients = torch.autograd.grad(y, present(ours), torch.zeros_like(y))
    assert [g.shape for g in gradients] == [t.shape for t in present(ours)]
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("epilogue", ["none", "all, lrelu, clamped", "all and styles, clamped"])
def test_opcheck(epilogue: str, rng: torch.Generator) -> None:
    given, options = EPILOGUES[epilogue]
    ours, _ = pair(make((2, 3, 4, 3, 5, 3), rng, given), torch.float32)
    torch.library.opcheck(torch.ops.smartfast.conv_gemm, (*ours, *options, "ieee", "next_styles" in given))
    y = torch.rand(2, 4, 3, 5, generator=rng).to(DEVICE).requires_grad_()
    dy = torch.randn(2, 4, 3, 5, generator=rng).to(DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.smartfast.conv_gemm_finish_gradient, (dy, y, *ours[2:], *options))


@pytest.fixture
def _traced_autograd() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("_traced_autograd")
def test_compiled_second_order_is_that_of_eager_mode(dtype: torch.dtype, rng: torch.Generator) -> None:
    ours, _ = pair(make((2, 3, 4, 5, 5, 3), rng), dtype)
    upstream = torch.randn(2, 4, 5, 5, generator=rng).to(DEVICE, dtype).requires_grad_()

    def penalty(upstream: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        dx, dd = torch.autograd.grad(
            conv_gemm(*tensors, *ALL[1]), [tensors[0], tensors[2]], upstream, create_graph=True
        )
        return dx, dx.float().square().sum() + dd.square().sum()

    expected = penalty(upstream, *ours)
    actual = torch.compile(penalty, fullgraph=True, backend="aot_eager")(upstream, *ours)
    leaves = [upstream, *present(ours)]
    assert_all_near(actual, [t.double() for t in expected], limit(dtype))
    second = [torch.autograd.grad(result[1], leaves) for result in (actual, expected)]
    assert_all_near(second[0], [t.double() for t in second[1]], limit(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4, 5).double()), "x is torch.float64"),
        (dict(x=torch.zeros(2, 3, 4)), "x has shape"),
        (dict(weight=torch.zeros(6, 3, 3, 3).half()), "weight is torch.float16"),
        (dict(weight=torch.zeros(6, 4, 3, 3)), "weight has shape"),
        (dict(weight=torch.zeros(6, 3, 5, 5)), "weight has shape"),
        (dict(demodulation=torch.zeros(2, 3)), "demodulation has shape"),
        (dict(noise=torch.zeros(1, 1, 4, 5)), "noise has shape"),
        (dict(bias=torch.zeros(3)), "bias has shape"),
        (dict(next_styles=torch.zeros(2, 3)), "next_styles has shape"),
        (dict(act="swish"), "act is 'swish'"),
        (dict(gain=-1.0), "gain is -1.0"),
        (dict(act="lrelu", alpha=-0.2), "alpha -0.2"),
        (dict(precision="bf16"), "precision is 'bf16'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(2, 3, 4, 5), weight=torch.zeros(6, 3, 3, 3)) | change
    with pytest.raises(ValueError, match=message):
        conv_gemm(**arguments)


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
        y, _ = launch_conv_gemm(x, weight, *[None] * 4, "linear", 0.0, 1.0, None, "ieee", capability=(8, 0))
    assert y.shape == (2, 256, 32, 32)
    (launch,) = launches
    assert launch.grid == (2 * 8 * 2,)
    assert launch.written == ("y",)
