"""The comparison behind bench.proofs.precision, on gradients whose differences are known."""

import pytest
import torch

from bench.proofs import precision
from bench.proofs.precision import compare, measure_score, score_training


def test_numbers_of_a_known_difference() -> None:
    exact = torch.tensor([3.0, 4.0]), torch.tensor([[1e-6, 0.0]])
    half = torch.tensor([4.0, 3.0]), torch.tensor([[0.0, 0.0]])
    loss, gradient, cosine, zeros = compare((torch.tensor(2.0), {}, exact), (torch.tensor(2.5), {}, half))
    assert loss == pytest.approx(0.25)
    assert gradient == pytest.approx(2**0.5 / 5)
    assert cosine == pytest.approx(24 / 25)
    assert zeros == pytest.approx(1 / 4)


def test_rows_of_what_the_score_term_adds() -> None:
    rows = list(measure_score(resolution=16, batch=4))
    shared, apart = "g_score - g_main, 16 pixels", "g_score - g_main, 16 pixels, separate pass"
    assert [(row.precision, row.phase) for row in rows] == [
        (precision, phase) for phase in (shared, apart) for precision in ("fp16", "bf16")
    ]
    # Coarse on purpose: at this size nothing is too small for half precision, and bf16 keeps eight bits.
    assert all(row.cosine > 0.9 and row.gradient > 0 for row in rows)


def test_what_the_score_term_adds_grows_with_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(weight: float) -> torch.Tensor:
        monkeypatch.setattr(precision, "SCORE_WEIGHT", weight)
        run = score_training("fp32", resolution=16, batch=4, separate_pass=False)
        run.load(next(precision.real_batches(run)))
        return torch.cat([piece.flatten() for piece in precision._added(run, "g_score", "g_main")[2]])

    assert torch.allclose(added(20.0), 2 * added(10.0), rtol=1e-3, atol=1e-5 * added(20.0).abs().max().item())
