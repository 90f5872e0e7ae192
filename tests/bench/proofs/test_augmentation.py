"""The numbers behind bench.proofs.augmentation: the other warp is the same map, and phases add what passes cost."""

import pytest
import torch
from torch import Tensor

from bench.base.timing import relative_error
from bench.proofs.augmentation import Alone, OfPhase, Pass, Work, count_alone, phases_of, report
from bench.proofs.straightforward_warp import straightforward_warp
from smartfast.augment.geometry import warp_filter
from smartfast.kernels import warp2d

TINY = ["--gan.channel_base=64", "--gan.channel_max=8", "--gan.mbstd_group=4", "--optim.batch=4", "--gan.w_dim=8"]
PIXELS, BATCH, CHANNELS = 32, 4, 3


@pytest.mark.parametrize(("spread", "shift"), [(0.0, 0.0), (0.3, 2.0), (1.0, 8.0)])
def test_the_straightforward_warp_is_the_same_map(spread: float, shift: float) -> None:
    """In float64, within the image and beyond its mirror image."""
    rng = torch.Generator().manual_seed(1)
    linear = torch.eye(2) + spread * torch.randn(5, 2, 2, generator=rng)
    matrix = torch.cat([linear, shift * torch.randn(5, 2, 1, generator=rng)], dim=2).double()
    x, f = torch.randn(5, 3, 9, 13, generator=rng).double(), warp_filter(torch.device("cpu"))
    torch.testing.assert_close(straightforward_warp(x, matrix, f), warp2d(x, matrix, f), rtol=1e-12, atol=1e-12)


def test_both_ways_agree_with_their_gradients() -> None:
    of = Pass(12, 6, "bgc", 0.6)

    def result(function: object, images: Tensor) -> tuple[Tensor, Tensor]:
        return of.passes(function)["backward"](images)

    truth = result(of.straightforward, of.images.detach().double().requires_grad_())
    assert relative_error(truth[0], of.images.detach()) > 0.1
    for function in (of.ours, of.straightforward):
        assert relative_error(result(function, of.images), truth) < 1e-5


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Alone]:
    rows = count_alone(PIXELS, BATCH, "bgc", 0.2)
    return {(row.way, row.passed): row for row in rows}


def test_flops_of_tritons_warp_by_hand(alone: dict[tuple[str, str], Alone]) -> None:
    """7 x 7 samples of a point, half pixels with 6 around; 12 taps along each axis; 3 x 3 colours."""
    grid = 2 * PIXELS + 12
    look_up = grid * grid * 49
    filtered = 12 * (grid - 2) * PIXELS + 12 * PIXELS * PIXELS
    colours = 3 * PIXELS * PIXELS
    small = 2 * BATCH * 3 * 3 * 1000  # products of maps and of colours, a few for each image
    found = alone["triton", "forward"].work.flops
    assert found == pytest.approx(2 * BATCH * CHANNELS * (look_up + filtered + colours), abs=small)


@pytest.fixture(scope="module")
def phases() -> dict[tuple[str, str], OfPhase]:
    return {(row.way, row.phase): row for row in phases_of("cifar10", TINY, "bgc", 0.2)}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["aten", "triton"])
def test_phases_add_their_passes(
    way: str, phases: dict[tuple[str, str], OfPhase], alone: dict[tuple[str, str], Alone]
) -> None:
    """d_main: two forward passes; g_main: one with the gradient; d_r1: that, and the derivative of the gradient."""
    forward, backward = (alone[way, passed].work for passed in ("forward", "backward"))
    d_main, g_main, d_r1 = (phases[way, name].added for name in ("d_main", "g_main", "d_r1"))
    if way == "aten":
        assert d_main.flops == 2 * forward.flops and g_main.flops == backward.flops
        assert d_r1.flops == pytest.approx(backward.flops + forward.flops, rel=1e-3)
    statistics = 5  # p, and the mean sign
    assert 0 <= d_main.launches - 2 * forward.launches <= statistics
    assert 0 <= g_main.launches - backward.launches <= statistics
    assert d_r1.launches > backward.launches and d_r1.bytes > backward.bytes


def test_report(alone: dict[tuple[str, str], Alone]) -> None:
    rows = [OfPhase(32, 4, "d_main", way, Work(100, 2**20, 4e9), Work(20, 2**18, 1e9)) for way in ("aten", "triton")]
    text = report(dict(pipe="bgc", p=0.2, command="command", presets="cifar10"), rows, list(alone.values()), [])
    assert "| 32 | d_main | PyTorch | 100 | 20 | 1 | 0 (25.0%) | 4 | 1 (25.00%) |" in text
    assert "| 32 | d_main | Triton | 100 | 20 | 1 | 0 (25.0%) | - | - |" in text
    assert "| 32 | 4 | backward | PyTorch | " in text
