"""Where an op takes an integer, any other value is refused by name, whatever implements the op."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartfast import kernels

pytestmark = pytest.mark.usefixtures("implementation")

X, F, W, S = torch.randn(2, 4, 8, 8), torch.ones(2, 2), torch.randn(4, 4, 3, 3), torch.ones(2, 4)
GROUPED = torch.randn(4, 2, 3, 3)
STREAM, ONES = torch.tensor([1, 2]), torch.ones(2)
NOISE = dict(seed=1, stream=STREAM)

OPS: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
    "upfirdn2d": (lambda **options: kernels.upfirdn2d(X, F, **options), ("up", "down", "padding")),
    "filter2d": (lambda **options: kernels.filter2d(X, F, **options), ("padding",)),
    "upsample2d": (lambda **options: kernels.upsample2d(X, F, **options), ("up", "padding")),
    "downsample2d": (lambda **options: kernels.downsample2d(X, F, **options), ("down", "padding")),
    "bias_act": (lambda **options: kernels.bias_act(X, torch.ones(4), **options), ("dim",)),
    "bias_act without a bias": (lambda **options: kernels.bias_act(X, **options), ("dim",)),
    "conv2d": (lambda **options: kernels.conv2d(X, W, **options), ("stride", "padding", "groups")),
    "conv2d, transposed": (
        lambda **options: kernels.conv2d(X, W, transposed=True, **options),
        ("stride", "padding", "groups"),
    ),
    "conv2d_resample": (
        lambda **options: kernels.conv2d_resample(X, W, f=F, **options),
        ("up", "down", "padding", "groups"),
    ),
    "modulated_conv2d": (
        lambda **options: kernels.modulated_conv2d(X, W, S, f=F, **options),
        ("up", "down", "padding"),
    ),
    "philox_uniform": (
        lambda **options: kernels.philox_uniform(**dict(seed=1, stream=STREAM, count=4) | options),
        ("seed", "count", "purpose"),
    ),
    "philox_normal": (
        lambda **options: kernels.philox_normal(**dict(seed=1, stream=STREAM, count=4) | options),
        ("seed", "count", "purpose"),
    ),
    "philox_words": (
        lambda **options: kernels.philox_words(**dict(seed=1, stream=STREAM, count=4) | options),
        ("seed", "count", "purpose"),
    ),
    "noise_like": (
        lambda **options: kernels.noise_like(X, **NOISE | dict(purpose=0) | options),
        ("seed", "purpose"),
    ),
    "noise_forward": (
        lambda **options: kernels.noise_forward(X, ONES, ONES, **NOISE | options),
        ("seed", "purpose"),
    ),
    "denoise_distance": (lambda **options: kernels.denoise_distance(X, **NOISE | options), ("seed", "purpose")),
    "denoise_distance_and_gradient": (
        lambda **options: kernels.denoise_distance_and_gradient(X, **NOISE | options),
        ("seed", "purpose"),
    ),
}
NO_INTEGERS = [1.5, 2.0, True, "1", None, torch.tensor(1.0), (1.5, 1), (True, True), (), (1, 1, 2), (1, 1, 2.0, 1)]
CASES = [(op, name) for op, (_, names) in OPS.items() for name in names]


@pytest.mark.parametrize(("op", "name"), CASES)
def test_no_integer(op: str, name: str) -> None:
    for value in NO_INTEGERS:
        with pytest.raises(ValueError, match=rf"^{name} is .*integer"):
            OPS[op][0](**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("stride", 0), ("stride", -1), ("groups", 0), ("groups", -1), ("padding", -1), ("padding", (0, -1))],
)
def test_convolution_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is "):
        kernels.conv2d(X, W, **{name: value})


def test_integers_of_any_form() -> None:
    """Lists as tuples, and numbers that a compiler leaves open."""
    same = kernels.upfirdn2d(X, F, up=(2, 2), padding=(1, 1, 1, 1))
    assert torch.equal(kernels.upfirdn2d(X, F, up=[2, 2], padding=[1, 1]), same)
    assert torch.equal(kernels.conv2d(X, W, padding=[1, 1]), kernels.conv2d(X, W, padding=1))

    def padded(x: Tensor) -> Tensor:
        return kernels.upfirdn2d(x, F, padding=x.shape[3] - 7)

    compiled = torch.compile(padded, dynamic=True, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), padded(X))
