"""The gradients behind bench.proofs.penalties: a difference with a small step is the derivative along its direction."""

import pytest
import torch

from bench.proofs.penalties import PARTS, Judge, count_costs, measure, new_training, report
from smartfast.core.draws import Purpose
from smartfast.families.rounds import Round
from smartfast.kernels import philox_normal


def first_round(judge: Judge) -> Round:
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)).tanh()
    return Round(torch.tensor([5, 0, 9]), images, None)


def test_a_small_step_is_the_derivative_along_the_direction() -> None:
    judge = Judge(new_training(loss__gamma=0.5))
    batch = first_round(judge)
    found = judge.gradients(batch, "fp64", step=1e-5, direction=4)
    exact = judge.gradients(batch, "fp64")

    images = batch.images.double().requires_grad_()
    d = judge.discriminators["fp64"]
    of = judge.phases(d, judge.loss)
    real, _ = of.judged(Round(batch.stream, images, None))
    (slope,) = torch.autograd.grad(real.logits.sum(), images, create_graph=True)
    direction = philox_normal(4, batch.stream, images[0].numel(), int(Purpose.PENALTY_REALS)).view(images.shape)
    loss = (slope * direction).sum(dim=[1, 2, 3]).square().mean()
    expected = torch.autograd.grad(loss, list(d.parameters()), materialize_grads=True)
    expected = torch.cat([gradient.flatten() for gradient in expected])
    assert (found.r1 - expected).norm() <= 1e-3 * expected.norm()
    for of_penalty, whole in ((found, found.d_main), (exact, exact.d_main)):
        rest = whole - 0.25 * (of_penalty.r1 + of_penalty.r2)
        assert (rest - (exact.d_main - 0.25 * (exact.r1 + exact.r2))).norm() <= 1e-12 * rest.norm()


@pytest.mark.slow
def test_rows_and_costs() -> None:
    rows = list(measure(warm_up=0, batches=1, directions=2))
    of_exact = [row for row in rows if row.step is None]
    assert [row.part for row in of_exact] == list(PARTS)
    assert all(row.cosine[0] > 0.999 and row.rounding < 1e-4 for row in of_exact)
    rounding = {row.step: row.rounding for row in rows if row.part == "R1" and row.precision == "fp32" and row.step}
    assert rounding[1e-4] > 10 * rounding[1.0]
    none, exact, differences = count_costs()
    assert none.over_none == 1 and exact.flops == pytest.approx(differences.flops, rel=0.05)
    assert "| finite_difference | " in report(rows, [none, exact, differences], "about")
