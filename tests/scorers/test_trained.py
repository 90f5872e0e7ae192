"""The self-check on networks that learnt the digits: the bundled one, and others that SMARTFAST_TRAINED_SCORERS has.

That folder holds digits_adm and digits_edm, the scorers of `train-scorer --config digits_adm` and `digits_edm`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smartfast.config.schema import SmartConfig
from smartfast.config.scorer import ScorerOptions
from smartfast.core.pixels import to_float
from smartfast.data.sources.digits import load_digits
from smartfast.errors import UserError
from smartfast.scorers import Scorer, check_predictions, load_scorer, timestep_range

TRAINED = os.environ.get("SMARTFAST_TRAINED_SCORERS")
OTHERS = ("digits_adm", "digits_edm")
RIGHT = {
    "digits": ScorerOptions(),
    "digits_adm": ScorerOptions(attention_order="legacy", schedule="linear", timestep_shift=0),
    "digits_edm": ScorerOptions(preconditioning="edm"),
}
WRONG = {
    "digits": [
        ("schedule linear", ScorerOptions(schedule="cosine")),
        ("prediction eps", ScorerOptions(prediction="v")),
        ("timestep_shift ", ScorerOptions(timestep_shift=3)),
        ("timestep_shift ", ScorerOptions(timestep_shift=-3)),
    ],
    "digits_adm": [
        ("attention_order legacy", ScorerOptions(attention_order="new")),
        ("schedule linear", ScorerOptions(schedule="cosine")),
        (
            "attention_order legacy and smart.scorer_options.schedule linear",
            ScorerOptions(attention_order="new", schedule="cosine"),
        ),
        ("timestep_shift 0", ScorerOptions(timestep_shift=50)),
        ("timestep_shift 0", ScorerOptions(timestep_shift=-50)),
    ],
    "digits_edm": [("preconditioning edm", ScorerOptions(preconditioning=kind)) for kind in ("vp", "ve", "cm")],
}
IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": torch.neg,
    "turned right": lambda images: images.rot90(1, (2, 3)),
    "turned left": lambda images: images.rot90(-1, (2, 3)),
}
INTERVALS = [(0.095, 0.13), (0.095, 0.96)]


def loaded(name: str, options: ScorerOptions) -> Scorer:
    if name == "digits":
        return load_scorer(name, options=options)
    folder = Path(TRAINED or "nowhere") / name
    if not folder.is_dir():
        pytest.skip(f"no {name}: SMARTFAST_TRAINED_SCORERS names no folder that holds it")
    return load_scorer(str(folder), options=options)


def check(scorer: Scorer, interval: tuple[float, float], change: Callable[[Tensor], Tensor] = torch.clone) -> list[str]:
    images, labels = load_digits(16)
    chosen = torch.arange(32) * len(images) // 32
    ends = timestep_range(scorer, SmartConfig(noise_to_signal=interval))
    return check_predictions(
        scorer, ends, change(to_float(images[chosen])), labels[chosen], name="mine", compare_readings=True
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("interval", INTERVALS, ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_the_right_reading_passes(name, interval) -> None:
    lines = check(loaded(name, RIGHT[name]), interval)
    assert len(lines) == 2 and "WARNING" not in "".join(lines)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name, right, options", [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_reading(name, right, options) -> None:
    scorer = loaded(name, options)
    with pytest.raises(UserError, match=f"finds noise clearly better with smart.scorer_options.{right}"):
        check(scorer, INTERVALS[0])


@pytest.mark.sample(3)
@pytest.mark.parametrize("change", IMAGES)
@pytest.mark.parametrize("name", RIGHT)
def test_other_images(name, change) -> None:
    scorer = loaded(name, RIGHT[name])
    with pytest.raises(UserError, match=f"finds noise clearly better with images {change}"):
        check(scorer, INTERVALS[0], IMAGES[change])
