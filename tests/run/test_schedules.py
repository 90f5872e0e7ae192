"""Settings that change in the middle of a run: from there it is the run that has the new value from its start."""

from collections.abc import Callable

import pytest
import torch

from smartfast.data import RealBatch
from smartfast.run.training import Training

BATCH = 8
CHANGES = {
    "optim__lr_g": (0.0025, 0.01),
    "optim__lr_d": (0.0025, 0.01),
    "loss__r1_gamma": (10.0, 1.0),
    "optim__ema_kimg": (10.0, 0.05),
    "smart__weight": (20.0, 0.1),
}


def schedule(before: float, after: float) -> str:
    return f"{{kind: piecewise, kimg: [0, {4 * BATCH / 1000}], values: [{before}, {after}]}}"


def train(training: Training, reals: RealBatch, iterations: int) -> dict[str, torch.Tensor]:
    for _ in range(iterations):
        training.run_iteration(reals)
    return {name: value.clone() for name, value in training.state().items()}


@pytest.mark.parametrize("name", [*CHANGES, "optim__betas"])
def test_a_change_in_the_middle_is_a_run_that_began_with_it(
    name: str, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    if name == "optim__betas":
        values = [f"[0.0, {schedule(first, last)}]" for first, last in ((0.99, 0.9), (0.9, 0.9))]
    else:
        before, after = CHANGES[name]
        values = [schedule(before, after), str(after)]
    settings = dict(loss__r1_interval=1, optim__ema_rampup="null", loss__path_length_weight=0)
    changed, constant = (tiny_training(**settings, **{name: value}) for value in values)
    middle = train(changed, tiny_reals(), 4)
    constant.restore(middle, images=changed.images)
    ends = [train(run, tiny_reals(), 3) for run in (changed, constant)]
    assert [n for n in ends[0] if not torch.equal(ends[0][n], ends[1][n])] == []
    unchanged = tiny_training(**settings)
    unchanged.restore(middle, images=4 * BATCH)
    last = train(unchanged, tiny_reals(), 3)
    assert [n for n in last if not torch.equal(last[n], ends[0][n])] != []


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_learning_rate_that_ends_at_0_leaves_the_weights_where_they_are(
    kind: str, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    falling = f"{{kind: {kind}, kimg: [0, {3 * BATCH / 1000}], values: [0.0025, 0]}}"
    training = tiny_training(optim__lr_g=falling, optim__lr_d=falling)
    before, end, later = (train(training, tiny_reals(), iterations) for iterations in (2, 1, 2))
    modules = training.family.modules
    weights = [f"{name}/module/{key}" for name, module in modules.items() for key, _ in module.named_parameters()]
    assert all(torch.equal(end[name], later[name]) for name in weights)
    assert any(not torch.equal(before[name], end[name]) for name in weights)
    assert all(value.isfinite().all() for value in later.values())


@pytest.mark.slow
def test_a_compiled_phase_follows_gamma(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    training = tiny_training(perf__compile="true", loss__r1_gamma=schedule(10.0, 1.0))
    training.load(tiny_reals())
    losses = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for images in (0, 4 * BATCH):
            training.scalars.set(images)
            losses.append(training.phases["d_r1"].compute(training.rounds[0])[0].item())
    assert losses[0] > 0 and losses[1] == pytest.approx(losses[0] / 10, rel=1e-5)
