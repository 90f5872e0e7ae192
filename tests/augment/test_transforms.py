"""How often transforms are drawn and how strong, over 100,000 images; which draws are alike and which independent."""

import math

import pytest
import torch
from torch import Tensor

from smartfast.augment import PIPES, Pipe
from smartfast.augment.transforms import Transforms, band_gains, draw_transforms
from smartfast.core.draws import Purpose

COUNT, P = 100_000, 0.4
STREAM = torch.arange(COUNT)
NEUTRAL = dict(zoom=1.0, stretch=1.0, contrast=1.0, saturation=1.0)


def draw(pipe: Pipe, p: float = P, purpose: int = Purpose.AUGMENT_REALS, stream: Tensor = STREAM) -> Transforms:
    return draw_transforms(pipe, torch.tensor(p), 3, stream, int(purpose))


@pytest.fixture(scope="module")
def drawn() -> Transforms:
    return draw(PIPES["bgcfnc"])


def rate(values: Tensor, neutral: float) -> float:
    changed = values != neutral
    return (changed.any(dim=1) if changed.ndim == 2 else changed).double().mean().item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flip", P / 2),  # half of what is drawn is no flip
        ("quarters", P * 3 / 4),
        ("shift", P),
        ("zoom", P),
        ("turn_before", 1 - math.sqrt(1 - P)),
        ("stretch", P),
        ("turn_after", 1 - math.sqrt(1 - P)),
        ("move", P),
        ("brightness", P),
        ("contrast", P),
        ("inverted", P / 2),
        ("hue", P),
        ("saturation", P),
        ("noise", P),
        ("hole", P),
    ],
)
def test_rates(drawn: Transforms, name: str, expected: float) -> None:
    deviation = math.sqrt(expected * (1 - expected) / COUNT)
    assert abs(rate(getattr(drawn, name), NEUTRAL.get(name, 0.0)) - expected) < 4.5 * deviation


@pytest.mark.parametrize(
    ("name", "of", "mean", "std"),
    [
        ("shift", lambda v: v[:, 0], 0, 0.125 / math.sqrt(3)),
        ("shift", lambda v: v[:, 1], 0, 0.125 / math.sqrt(3)),
        ("zoom", torch.log2, 0, 0.2),
        ("turn_before", lambda v: v, 0, math.pi / math.sqrt(3)),
        ("turn_after", lambda v: v, 0, math.pi / math.sqrt(3)),
        ("stretch", torch.log2, 0, 0.2),
        ("move", lambda v: v[:, 0], 0, 0.125),
        ("move", lambda v: v[:, 1], 0, 0.125),
        ("brightness", lambda v: v, 0, 0.2),
        ("contrast", torch.log2, 0, 0.5),
        ("hue", lambda v: v, 0, math.pi / math.sqrt(3)),
        ("saturation", torch.log2, 0, 1.0),
        ("noise", lambda v: v, 0.1 * math.sqrt(2 / math.pi), 0.1 * math.sqrt(1 - 2 / math.pi)),
    ],
)
def test_strengths(drawn: Transforms, name: str, of: object, mean: float, std: float) -> None:
    values = getattr(drawn, name)
    chosen = of(values[values != NEUTRAL.get(name, 0.0)] if values.ndim == 1 else values[values.any(dim=1)]).double()
    assert abs(chosen.mean() - mean) < 4.5 * std / math.sqrt(len(chosen))
    assert abs(chosen.std() - std) < 4.5 * std / math.sqrt(len(chosen))  # the wider of the two distributions' errors


def test_quarter_turns_and_holes(drawn: Transforms) -> None:
    counts = torch.bincount(drawn.quarters.long(), minlength=4).double() / COUNT
    assert counts.tolist() == pytest.approx([1 - P * 3 / 4, P / 4, P / 4, P / 4], abs=0.007)
    assert set(drawn.hole.tolist()) == {0.0, 0.5}
    assert drawn.centre.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.005)


def test_bands_keep_the_expected_power() -> None:
    factors = [
        torch.tensor([1.0, 3.0, 0.5]),
        torch.tensor([2.0, 1.0, 1.0]),
        torch.ones(3),
        torch.tensor([1.0, 1.0, 7.0]),
    ]
    gains = band_gains(factors)
    for row in range(3):
        expected = torch.ones(4, dtype=torch.float64)
        for band, factor in enumerate(factors):
            amplified = torch.ones(4, dtype=torch.float64)
            amplified[band] = factor[row]
            expected *= amplified / (torch.tensor([10, 1, 1, 1]) / 13 * amplified.square()).sum().sqrt()
        torch.testing.assert_close(gains[row].double(), expected, rtol=1e-6, atol=1e-6)


def numbers(transforms: Transforms) -> Tensor:
    """Every strength of every image, [N, K]."""
    columns = [v if v.ndim == 2 else v[:, None] for v in transforms if v is not None]
    return torch.cat(columns, dim=1).double()


def test_passes_and_images_are_independent(drawn: Transforms) -> None:
    """No column of one pass correlates with any of another pass or of the image before."""
    mine = numbers(drawn)
    others = [
        numbers(draw(PIPES["bgcfnc"], purpose=purpose))
        for purpose in (Purpose.AUGMENT_FAKES, Purpose.AUGMENT_REALS_AGAIN)
    ]
    for other in (*others, mine.roll(1, dims=0)):
        a, b = ((x - x.mean(dim=0)) / x.std(dim=0) for x in (mine, other))
        correlations = a.T @ b / COUNT
        assert correlations.abs().max() < 5.2 / math.sqrt(COUNT)


def test_transforms_of_an_image_depend_on_nothing_else() -> None:
    """Neither on the images beside it nor on what else is in the pipe."""
    some = torch.tensor([7, 99, 2**40])
    whole = draw(PIPES["bgcfnc"], stream=some)
    for i in range(3):
        one = draw(PIPES["bgcfnc"], stream=some[i : i + 1])
        assert torch.equal(numbers(one)[0], numbers(whole)[i])
    alone = draw(PIPES["color"], stream=some)
    assert torch.equal(alone.hue, whole.hue) and alone.flip is None


@pytest.mark.parametrize("name", PIPES)
def test_nothing_happens_at_zero_and_everything_at_one(name: str) -> None:
    never, always = (draw(PIPES[name], p, stream=torch.arange(500)) for p in (0.0, 1.0))
    for field in Transforms._fields:
        if (value := getattr(never, field)) is not None and field not in ("centre", "bands"):
            neutral = NEUTRAL.get(field, 0.0)
            assert rate(value, neutral) == 0
            assert rate(getattr(always, field), neutral) > 0.2  # half of half is the least, R3GAN's inversion
