"""Bytes that live at a time, against sums by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from smartfast.core.live_bytes import LiveBytes

KIB = 1024


@pytest.fixture(params=["real", "fake"])
def mode(request: pytest.FixtureRequest):
    """Tensors with data, and without."""
    if request.param == "real":
        yield
        return
    with FakeTensorMode():
        yield


def test_views_and_changes_in_place_take_nothing(mode: None) -> None:
    x = torch.zeros(16, 16)
    with LiveBytes() as live:
        x[1:].t().reshape(-1)[:4].add_(1)
        x.mul_(2).unsqueeze(0).expand(3, -1, -1)
    assert live.peak_bytes == 15 * 16 * 4  # reshape copies what is transposed


def test_what_is_gone_counts_no_more(mode: None) -> None:
    x = torch.zeros(KIB, dtype=torch.float64)
    with LiveBytes() as live:
        a = x + 1
        b = a + 1
        del a
        c = b + 1
        del b, c
        x.float()
    assert live.peak_bytes == 2 * 8 * KIB


def test_what_a_backward_pass_needs_lives_until_then(mode: None) -> None:
    x = torch.zeros(KIB, requires_grad=True)
    with LiveBytes() as live:
        y = x.exp().exp().sum()  # each keeps its result
        torch.autograd.grad(y, x)
    with LiveBytes() as without:
        x.detach().exp().exp()
    assert without.peak_bytes == 2 * 4 * KIB
    assert live.peak_bytes >= 3 * 4 * KIB


def test_several_results_of_one_operation(mode: None) -> None:
    x = torch.zeros(4, KIB)
    with LiveBytes() as live:
        values, places = x.max(dim=1)
        pieces = x.split(2)
    assert live.peak_bytes == 4 * 4 + 4 * 8 and values.shape == places.shape and len(pieces) == 2
