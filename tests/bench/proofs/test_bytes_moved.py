"""bench.proofs.bytes_moved counts without a GPU and without running anything: shapes and layouts decide."""

from functools import partial

import pytest
import torch
from torch import Tensor

from bench.count.layers import Case
from bench.count.sizes import usual_cases
from bench.count.tracing import Trace, trace, unique_bytes
from bench.proofs.bytes_moved import count
from smartfast import kernels

F32 = 4


def meta(*shape: int, **options) -> Tensor:
    return torch.empty(*shape, device="meta", **options)


def moved(function) -> list[tuple[str, int, int]]:
    with Trace() as traced:
        function()
    return [(entry.name, entry.read, entry.written) for entry in traced.traffic]


def test_operation_reads_inputs_and_writes_outputs() -> None:
    x, y = meta(3, 5), meta(5)
    assert moved(lambda: x + y) == [("add", (15 + 5) * F32, 15 * F32)]


def test_views_and_allocations_are_free() -> None:
    x = meta(2, 3, 4)
    assert moved(lambda: (x.transpose(0, 1)[1:], x.expand(2, 3, 4), x.view(6, 4).unbind(), torch.empty_like(x))) == []


def test_copy_of_a_view_is_counted() -> None:
    x = meta(8, 4)
    assert moved(lambda: x.t().contiguous()) == [("clone", 32 * F32, 32 * F32)]


def test_repeated_elements_and_tensors_count_once() -> None:
    row, x = meta(1, 5), meta(4, 5)
    assert unique_bytes([row.expand(4, 5)]) == 5 * F32
    assert moved(lambda: x * x) == [("mul", 20 * F32, 20 * F32)]


def test_writing_without_reading() -> None:
    x, half = meta(6), meta(6, dtype=torch.float16)
    assert moved(lambda: x.copy_(half)) == [("copy_", 6 * 2, 6 * F32)]
    assert moved(lambda: x.zero_()) == [("zero_", 0, 6 * F32)]
    assert moved(lambda: x.add_(1)) == [("add_", 6 * F32, 6 * F32)]


def test_convolution_gradients_are_two_kernels() -> None:
    x, weight = meta(2, 8, 6, 6).requires_grad_(), meta(4, 8, 1, 1).requires_grad_()
    traced = trace(lambda: torch.conv2d(x, weight), [x, weight], order=1)
    nx, nw, ny = 2 * 8 * 36 * F32, 4 * 8 * F32, 2 * 4 * 36 * F32
    assert [entry[1:3] for entry in traced.traffic] == [(nx + nw, ny), (ny + nw, nx), (ny + nx, nw)]
    assert traced.forward == 1


def test_convolution_keeps_channels_last() -> None:
    x = meta(2, 8, 6, 6).to(memory_format=torch.channels_last)
    with Trace():
        y = torch.conv2d(x, meta(4, 8, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_bias_act_reads_and_writes_once() -> None:
    x, b = meta(2, 16, 8, 8, dtype=torch.float16), meta(16, dtype=torch.float16)
    run = partial(kernels.bias_act, x, b, act="lrelu", impl="triton")
    (entry,) = trace(run).traffic
    assert entry[1:3] == (unique_bytes([x, b]), unique_bytes([x]))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_upfirdn2d_is_one_launch_per_derivative(order: int) -> None:
    x, f = meta(2, 16, 9, 9, dtype=torch.float16).requires_grad_(), kernels.setup_filter([1, 3, 3, 1]).to("meta")
    traced = trace(lambda: kernels.upfirdn2d(x, f, padding=1, impl="triton"), [x], order)
    small, large = 2 * 16 * 8 * 8 * 2, 2 * 16 * 9 * 9 * 2
    assert [entry.total for entry in traced.traffic] == [small + large + unique_bytes([f])] * (order + 1)


def find(op: str, layer: str) -> Case:
    return next(case for case in usual_cases("cifar10", "cuda") if (case.op, case.layer) == (op, layer))


@pytest.mark.parametrize(
    ("op", "layer", "times_fewer"),
    [
        ("bias_act", "d.b32.fromrgb", 5),
        ("upfirdn2d", "d.b32.conv1 filter", 3),
        ("modulated_conv2d", "g.synthesis.b32.conv0", 3),
        ("modulated_conv2d", "g.synthesis.b32.conv1", 2),
        ("noise_forward", "g_score", 20),
        ("denoise_distance", "g_score", 20),
    ],
)
def test_fewer_bytes_than_eager(op: str, layer: str, times_fewer: float) -> None:
    row = count("cifar10", find(op, layer))
    assert row.forward * times_fewer < row.forward_reference
    assert row.forward < row.forward_backward < row.forward_backward_reference
