"""The probability of an augmentation against stylegan2-ada's own sequence, and what it does at its bounds."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from smartfast.augment.control import controller, new_probability

GOLDEN = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
CASES = ("default", "from_p", "resume", "clamped_at_zero")


def run(p: float, signs: list[float], bad: float = 0.0, **options: float) -> list[float]:
    """p after each step."""
    variables = new_probability(p)
    commit = controller(variables["augment_p"], variables["augment_window"], **options)
    found = []
    for sign in signs:
        commit(torch.tensor([sign]), torch.tensor(bad))
        found.append(variables["augment_p"].item())
    return found


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden vectors: {GOLDEN} is missing (set SMARTFAST_GOLDEN)")
@pytest.mark.parametrize("name", CASES)
def test_probability_of_the_original(name: str) -> None:
    """The mean of a window is given: all of its steps have it."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    (case,) = (c for c in manifest["cases"] if (c["topic"], c["case"]) == ("ada_adjust", name))
    tensors: dict[str, Tensor] = load_file(GOLDEN / case["file"])
    signs, expected = tensors[f"{name}/sign_real_mean"], tensors[f"{name}/p"]
    given = case["args"]
    interval = given["ada_interval"]
    found = run(
        given["p_start"],
        signs.repeat_interleave(interval).tolist(),
        target=given["ada_target"],
        step=given["batch_size"] * interval / (given["ada_kimg"] * 1000),
        interval=interval,
        max_p=math.inf,
    )
    torch.testing.assert_close(torch.tensor(found[interval - 1 :: interval]), expected, rtol=1e-6, atol=1e-6)
    assert found[: interval - 1] == pytest.approx([given["p_start"]] * (interval - 1))


def test_mean_of_a_window_decides() -> None:
    options = dict(target=0.5, step=0.1, interval=3, max_p=0.15)
    assert run(0.0, [1.0, 1.0, -0.4, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], **options) == pytest.approx(
        [0, 0, 0.1, 0.1, 0.1, 0, 0, 0, 0.1]
    )
    assert run(0.0, [1.0] * 9, **options)[-1] == pytest.approx(0.15)  # the bound


def test_a_skipped_step_counts_for_nothing() -> None:
    assert run(0.3, [1.0] * 8, bad=1.0, target=0.5, step=0.1, interval=2, max_p=1.0) == pytest.approx([0.3] * 8)
