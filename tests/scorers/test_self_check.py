"""The self-check refuses each wrong reading of an exact denoiser, and never the right one."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer, Scorer, check_predictions
from smartfast.scorers.adm import adm_schedule
from smartfast.scorers.interval import TimestepRange

SEEDS = range(3)
INTERVALS = [(25, 35), (25, 250), (600, 700)]


class Told(Scorer):
    """An exact denoiser behind a network that counts timesteps, whose schedule is that of `inner`."""

    schedules: Any = {name: lambda steps, name=name: adm_schedule(name, steps) for name in ("linear", "cosine")}

    def __init__(self, inner: GaussianMixtureScorer, schedule: str, shift: int = 0) -> None:
        noise = adm_schedule(schedule)  # type: ignore[arg-type]
        noise = replace(noise, times=(torch.arange(1000) + shift).clamp(min=0))
        super().__init__(
            noise, image_shape=inner.image_shape, num_classes=0, parameterization="eps", dtype=torch.float32
        )
        self.inner = inner
        self.freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return self.inner.network(x_t, self.told(t).clamp(max=999), labels)


def mixture(seed: int, std: float, schedule: str = "linear") -> GaussianMixtureScorer:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(4, 3, 8, 8, generator=generator) * 0.5
    return GaussianMixtureScorer(adm_schedule(schedule), means, torch.full((4,), std))  # type: ignore[arg-type]


def images_of(inner: GaussianMixtureScorer, seed: int, count: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return inner.means[torch.arange(count) % 4] + inner.stds[0] * noise


def check(scorer: Scorer, images: Tensor, interval: tuple[int, int] = (25, 250)) -> list[str]:
    ends = TimestepRange(*interval, 0.0, 0.0, 1000, "test")
    return check_predictions(scorer, ends, images, None, name="mine", compare_readings=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("interval", INTERVALS, ids=str)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("std", [0.005, 0.2])
def test_the_right_reading_passes(std, schedule, interval, seed) -> None:
    inner = mixture(seed, std, schedule)
    lines = check(Told(inner, schedule), images_of(inner, seed), interval)
    assert len(lines) == 2 and lines[0].startswith("self-check: squared error of eps ")
    assert " on 32 images (of a linear filter " in lines[0] and "schedule" in lines[1] and "timestep_shift" in lines[1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("interval", INTERVALS, ids=str)
@pytest.mark.parametrize("right, wrong", [("linear", "cosine"), ("cosine", "linear")])
def test_a_wrong_schedule(right, wrong, interval, seed) -> None:
    inner = mixture(seed, 0.05, right)
    message = f"smart.scorer: 'mine' finds noise clearly better with smart.scorer_options.schedule {right}: 0."
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check(Told(inner, wrong), images_of(inner, seed), interval)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_shifted_timesteps(shift, seed) -> None:
    inner = mixture(seed, 0.005)
    with pytest.raises(UserError, match=r"better with smart\.scorer_options\.timestep_shift 0: 0\."):
        check(Told(inner, "linear", shift), images_of(inner, seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_shifts_that_nothing_tells_apart_are_said(seed) -> None:
    """Of images with far more detail than there is noise, the best eps is near zero whatever the timestep."""
    inner = mixture(seed, 0.5)
    for shift in (0, 1):
        others = {shift + by for by in (-2, -1, 1, 2)}
        lines = check(Told(inner, "linear", shift), images_of(inner, seed))
        alike = lines[1].partition("not told apart: ")[2]
        assert {f"timestep_shift {other}" for other in others} <= set(re.findall(r"timestep_shift -?\d", alike))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": lambda x: -x,
    "turned right": lambda x: x.rot90(1, (2, 3)),
    "turned left": lambda x: x.rot90(-1, (2, 3)),
    "upside down": lambda x: x.rot90(2, (2, 3)),
    "of reversed channels": lambda x: x.flip(1),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", CHANGES)
def test_images_that_are_turned_into_others(change, seed) -> None:
    inner = mixture(seed, 0.2)
    with pytest.raises(UserError, match=f"finds noise clearly better with images {change}: "):
        check(Told(inner, "linear"), CHANGES[change](images_of(inner, seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_other_images(seed) -> None:
    scorer = Told(mixture(seed, 0.05), "linear")
    with pytest.raises(UserError, match="'mine' predicts no better than zero would"):
        check(scorer, images_of(mixture(seed + 50, 0.05), seed))


def test_smoother_images_than_the_scorer_knows() -> None:
    """Better than nothing and worse than a linear filter: it is said."""
    inner = GaussianMixtureScorer(adm_schedule("linear"), torch.zeros(1, 3, 8, 8), torch.tensor([0.5]))
    smooth = torch.nn.functional.avg_pool2d(images_of(mixture(0, 0.5), 0), 8).expand(-1, -1, 8, 8)
    lines = check(Told(inner, "linear"), smooth.contiguous(), (250, 300))
    assert lines[-1].startswith("self-check: WARNING: no better than a linear filter")


def test_few_images_are_not_compared() -> None:
    inner = mixture(0, 0.05)
    assert check(Told(inner, "cosine"), images_of(inner, 0, 15)) == [
        "self-check: left out, 15 images are fewer than 16"
    ]
