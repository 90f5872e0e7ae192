"""How like two scorers are, against float64 by hand, and of a scorer to itself."""

import pytest
import torch
from torch import Tensor

from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.kernels import philox_normal
from smartfast.scorers import GaussianMixtureScorer, Scorer
from smartfast.scorers.interval import TimestepRange
from smartfast.scorers.likeness import likeness
from smartfast.scorers.schedule import schedule_from_config

SHAPE = (3, 5, 5)
INTERVAL = TimestepRange(30, 90, 0.0, 0.0, 1000, "linear")


class Scaled(Scorer):
    """eps_theta = factors * x_t, so that the term's gradient is 2 alpha / numel * factors * (factors * x_t - eps)."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__(
            schedule_from_config({}, "test"),
            image_shape=SHAPE,
            num_classes=0,
            parameterization="eps",
            dtype=torch.float32,
        )
        self.register_buffer("factors", factors)

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return self.factors * x_t


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_of_a_scorer_to_itself() -> None:
    scorer = GaussianMixtureScorer(schedule_from_config({}, "test"), images(3), torch.tensor([0.2, 0.3, 0.5]))
    found = likeness(scorer, scorer, INTERVAL, images(), None, draws=3, batch=2)
    assert found == pytest.approx((1.0, 1.0, 1.0, 0.0), abs=1e-6)


def test_against_float64_by_hand() -> None:
    """Two batches, of three images and of two, with two draws each."""
    rng = torch.Generator().manual_seed(2)
    factors = [torch.rand(SHAPE, generator=rng) for _ in range(2)]
    cosines, means, norms, squares = [], [], [], torch.zeros(2, dtype=torch.float64)
    for places in (torch.arange(3), torch.arange(3, 5)):
        gradients: list[list[Tensor]] = [[], []]
        for draw in range(2):
            stream = places + 5 * draw
            t = draw_timesteps(7, stream, 30, 90)
            kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t][:, None, None, None]
            eps = philox_normal(7, stream, 75, Purpose.SCORE_NOISE).view(-1, *SHAPE).double()
            x_t = kept.sqrt() * images()[places].double() + (1 - kept).sqrt() * eps
            outputs = [factor.double() * x_t for factor in factors]
            for output, factor, found in zip(outputs, factors, gradients, strict=True):
                found.append((2 * kept.sqrt() * factor.double() * (output - eps)).flatten())
            squares += torch.stack([(outputs[0] - outputs[1]).square().sum(), outputs[1].square().sum()])
        pairs = list(zip(*gradients, strict=True))
        cosines.append(sum(float(a @ b / a.norm() / b.norm()) for a, b in pairs) / 2)
        norms.append(sum(float(a.norm() / b.norm()) for a, b in pairs) / 2)
        a, b = (sum(found) for found in gradients)
        means.append(float(a @ b / a.norm() / b.norm()))
    expected = [sum(values) / 2 for values in (cosines, means, norms)] + [float((squares[0] / squares[1]).sqrt())]
    found = likeness(Scaled(factors[0]), Scaled(factors[1]), INTERVAL, images(), None, draws=2, batch=3, seed=7)
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0.1 < found.cosine < 0.99 and found.cosine != pytest.approx(found.mean_cosine, rel=1e-3)
