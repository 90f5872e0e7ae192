"""Numbers that follow the images seen, and Adam with betas that do."""

import pytest
import torch

from smartfast.config.families import StyleGan2Loss
from smartfast.config.ranges import in_range
from smartfast.config.schedule import Schedule, value_at, values_of
from smartfast.config.schema import Config, OptimConfig
from smartfast.engine.adam import Adam, AdamSettings
from smartfast.engine.schedules import DeviceScalars
from smartfast.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", {0: 2.0, 1000: 2.0, 2000: 4.0, 3000: 6.0, 4000: 3.0, 9000: 0.0}),
        ("cosine", {0: 2.0, 1500: 2.0 + 4 * (1 - 0.5**0.5) / 2, 2000: 4.0, 3000: 6.0, 4000: 3.0, 9000: 0.0}),
        ("piecewise", {0: 2.0, 1000: 2.0, 2999: 2.0, 3000: 6.0, 4999: 6.0, 5000: 0.0}),
    ],
)
def test_a_schedule_passes_through_its_points(kind: str, expected: dict[int, float]) -> None:
    schedule = Schedule(kind, kimg=(1.0, 3.0, 5.0), values=(2.0, 6.0, 0.0))
    assert {images: value_at(schedule, images) for images in expected} == pytest.approx(expected)
    assert values_of(schedule) == (2.0, 6.0, 0.0) and value_at(0.5, 7) == 0.5 and values_of(0.5) == (0.5,)


@pytest.mark.parametrize(
    ("kimg", "values"), [((0.0, 1.0), (1.0,)), ((), ()), ((1.0, 0.0), (1.0, 2.0)), ((-1.0,), (1.0,))]
)
def test_points_that_make_no_schedule_are_refused(kimg: tuple[float, ...], values: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="^optim.lr_g is a schedule .*expected"):
        in_range(Config(optim=OptimConfig(lr_g=Schedule("linear", kimg, values))))


def test_every_value_of_a_schedule_is_held_against_the_range() -> None:
    config = Config(loss=StyleGan2Loss(r1_gamma=Schedule("linear", (0.0, 1.0), (1.0, 2.0))))
    assert in_range(config) == config
    with pytest.raises(UserError, match="^loss.r1_gamma is -2.0, expected"):
        in_range(Config(loss=StyleGan2Loss(r1_gamma=Schedule("linear", (0.0, 1.0), (1.0, -2.0)))))


def test_scalars_stay_in_place_and_are_written_when_they_change() -> None:
    scalars = DeviceScalars(CPU)
    fixed, moving = scalars.add(lambda images: 3.0), scalars.add(lambda images: images / 2)
    fixed_version, moving_version = fixed._version, moving._version
    for images in (0, 8, 8, 16):
        scalars.set(images)
        assert (fixed.item(), moving.item()) == (3.0, images / 2)
    assert fixed._version == fixed_version and moving._version == moving_version + 2


def adam(weights: torch.Tensor, gradient: torch.Tensor, settings: AdamSettings) -> tuple[Adam, DeviceScalars]:
    scalars = DeviceScalars(CPU)
    parts = [slice(0, 4), slice(4, 6)]
    return Adam(weights, gradient, parts, [1.0, 0.1], settings, scalars), scalars


@pytest.mark.parametrize("betas", [(0.5, 0.9), (0.5, Schedule("piecewise", (0.0, 0.003), (0.9, 0.99)))])
def test_steps_are_those_of_a_plain_adam_whose_numbers_are_changed(betas: tuple) -> None:
    """Learning rates of two groups fall with every step; one step in the middle is bad and changes nothing."""
    start = torch.randn(6)
    weights, gradient = start.clone(), torch.zeros(6)
    ours, scalars = adam(weights, gradient, AdamSettings(lr=lambda images: 0.1 / (1 + images), betas=betas))
    plain = [torch.nn.Parameter(start[:4].clone()), torch.nn.Parameter(start[4:].clone())]
    optimizer = torch.optim.Adam([{"params": [plain[0]]}, {"params": [plain[1]]}])
    for images in range(6):
        scalars.set(images)
        gradient.copy_(torch.randn(6))
        if images == 2:
            gradient[0] = torch.nan
            before = weights.clone()
            ours.step(torch.tensor(1.0))
            assert torch.equal(weights, before)
            continue
        ours.step(torch.tensor(0.0))
        for group, factor in zip(optimizer.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = factor * 0.1 / (1 + images)
            group["betas"] = tuple(value_at(beta, images) for beta in betas)
        plain[0].grad, plain[1].grad = gradient[:4].clone(), gradient[4:].clone()
        optimizer.step()
    assert torch.allclose(weights, torch.cat([p.detach() for p in plain]), atol=1e-6)
    assert [step.item() for step in ours.steps] == [5, 5]
