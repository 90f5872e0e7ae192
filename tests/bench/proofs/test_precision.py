"""The comparison behind bench.proofs.precision, on gradients whose differences are known."""

import pytest
import torch

from bench.proofs.precision import compare


def test_numbers_of_a_known_difference() -> None:
    exact = torch.tensor([3.0, 4.0]), torch.tensor([[1e-6, 0.0]])
    half = torch.tensor([4.0, 3.0]), torch.tensor([[0.0, 0.0]])
    loss, gradient, cosine, zeros = compare((torch.tensor(2.0), {}, exact), (torch.tensor(2.5), {}, half))
    assert loss == pytest.approx(0.25)
    assert gradient == pytest.approx(2**0.5 / 5)
    assert cosine == pytest.approx(24 / 25)
    assert zeros == pytest.approx(1 / 4)
