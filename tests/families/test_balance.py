"""The weight of the score term where it moves to give the term a share of the gradient: smart.balance."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smartfast.config.schedule import Schedule
from smartfast.data import RealBatch
from smartfast.errors import UserError
from smartfast.families.score import ScoreRegularity, score_variables
from smartfast.run.checks import check_settings
from smartfast.run.training import Training
from smartfast.scorers import load_scorer, timestep_range


def weights_of(
    training: Training, lengths: list[tuple[float, float]], *, share: float, first: float, bad: float = 0.0
) -> list[float]:
    """The weight after steps in which the gradients of the loss and of the term had these lengths."""
    smart, scorer = replace(training.config.smart, balance=share, weight=first), load_scorer("digits")
    weight = score_variables(smart)["score_weight"]
    score = ScoreRegularity(scorer, timestep_range(scorer, smart), smart, seed=0, weight=weight)
    found = []
    for of_loss, of_term in lengths:
        values = {"image_gradient/loss": of_loss, "image_gradient/score": of_term}
        for part in score.carried:
            part.commit(torch.tensor([values[part.name]]), torch.tensor(bad))
        found.append(weight.item())
    return found


def test_the_weight_makes_up_for_a_tenth_of_the_deviation(tiny_training: Callable[..., Training]) -> None:
    training = tiny_training()
    steps = [(3.0, 0.3), (2.0, 1.0), (0.5, 0.1)]
    expected, weight = [], 7.0
    for of_loss, of_term in steps:
        weight *= (0.2 * of_loss / of_term) ** 0.1
        expected.append(weight)
    assert weights_of(training, steps, share=0.2, first=7.0) == pytest.approx(expected, rel=1e-6)


def test_a_skipped_step_leaves_it_and_nothing_takes_it_farther_than_its_bounds(
    tiny_training: Callable[..., Training],
) -> None:
    training = tiny_training()
    assert weights_of(training, [(torch.nan, torch.inf)], share=0.2, first=7.0, bad=1.0) == [7.0]
    assert weights_of(training, [(1.0, 0.0)] * 50, share=0.2, first=7.0)[-1] == pytest.approx(7e4)
    assert weights_of(training, [(0.0, 1.0)] * 50, share=0.2, first=7.0)[-1] == pytest.approx(7e-4)


@pytest.mark.sample(4)
@pytest.mark.parametrize("first", [0.01, 1000.0])
@pytest.mark.parametrize("separate", ["false", "true"])
def test_the_term_gets_its_share_of_the_gradient(
    first: float, separate: str, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    """The lengths are measured by the phase itself; they change while the networks learn, and the weight follows."""

    def mean_share(**settings: object) -> float:
        """Of the last 20 of 140 steps, as a logarithm."""
        training = tiny_training(smart__weight=first, smart__frequency=1, smart__separate_pass=separate, **settings)
        shares = []
        for number in range(140):
            training.run_iteration(tiny_reals())
            if number >= 120:
                _, found, _ = training.phases["g_score"].compute(training.rounds[0])
                shares.append((found["image_gradient/score"] / found["image_gradient/loss"]).log().item())
        return sum(shares) / len(shares)

    assert mean_share(smart__balance=0.3) == pytest.approx(math.log(0.3), abs=0.3)
    assert mean_share() != pytest.approx(math.log(0.3), abs=1)


def test_it_is_part_of_the_state_and_of_the_statistics(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    def trained(training: Training, iterations: int) -> dict[str, Tensor]:
        for _ in range(iterations):
            training.run_iteration(tiny_reals())
        return {name: value.clone() for name, value in training.state().items()}

    run, other = (tiny_training(smart__balance=0.3, smart__weight=5.0) for _ in range(2))
    middle = trained(run, 3)
    assert middle["score_weight"] != 5
    assert {"score/weight", "image_gradient/score", "image_gradient/loss"} <= set(run.statistics.read())
    other.restore(middle, images=run.images)
    ends = [trained(each, 3) for each in (run, other)]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    assert "score_weight" not in tiny_training().state()


def test_no_weight_that_cannot_move_is_taken(tiny_training: Callable[..., Training]) -> None:
    config = tiny_training(smart__balance=0.3).config
    schedule = Schedule("linear", (0.0, 1.0), (2.0, 1.0))
    wrong = {0.0: "smart.weight is 0, expected more than 0", schedule: "smart.weight is a schedule, expected a number"}
    for weight, message in wrong.items():
        with pytest.raises(UserError, match=f"{message} with smart.balance"):
            check_settings(replace(config, smart=replace(config.smart, weight=weight)), num_processes=1)
