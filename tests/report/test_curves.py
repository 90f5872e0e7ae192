"""Curves as numbers: gaps where a value is not finite, ends of long ones kept, every statistic somewhere."""

import numpy as np
import pytest

from smartfast.families.base import Panel
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.report.curves import MOST_POINTS, SPEED_PANEL, drawn, other_panels

LOSS = Panel("Loss", "nats", {"loss/d_main": "discriminator", "loss/absent": "absent"})


def test_panels_hold_the_points_that_there_are(tick):
    (panel,) = drawn([LOSS, Panel("Absent", "", {"loss/absent": ""})], [tick(1), {"kimg": 3.0}, tick(2)])
    assert panel == {
        "title": "Loss",
        "unit": "nats",
        "curves": [{"name": "discriminator", "kimg": [2.0, 4.0], "values": [1.18, 1.16]}],
    }


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), "text", []])
def test_what_is_no_finite_number_is_a_gap(tick, bad):
    (panel,) = drawn([LOSS], [tick(1), tick(2, **{"loss/d_main": bad}), tick(3)])
    assert panel["curves"][0]["values"] == [1.18, None, 1.14] and panel["curves"][0]["kimg"] == [2, 4, 6]


def test_a_long_curve_keeps_its_spikes_and_its_order():
    values = np.random.default_rng(0).normal(size=12_345)
    values[[777, 9_999]] = 50.0, -60.0
    rows = [{"kimg": float(i), "loss/d_main": float(v)} for i, v in enumerate(values)]
    rows[5]["loss/d_main"] = None
    (panel,) = drawn([LOSS], rows)
    curve = panel["curves"][0]
    assert len(curve["kimg"]) <= MOST_POINTS and curve["kimg"] == sorted(curve["kimg"])
    assert max(curve["values"]) == 50 and min(curve["values"]) == -60
    assert all(abs(values[int(k)] - v) < 1e-4 for k, v in zip(curve["kimg"], curve["values"], strict=True))


def test_a_long_curve_has_its_means_and_its_end():
    """A mean of extremes is none: of a skewed statistic it lies far too high."""
    values = np.random.default_rng(0).exponential(size=6_251)
    (panel,) = drawn([LOSS], [{"kimg": float(4 * i), "loss/d_main": float(v)} for i, v in enumerate(values)])
    curve = panel["curves"][0]
    means = curve["means"]
    assert np.mean(means["values"]) == pytest.approx(values.mean(), rel=0.01) and np.mean(curve["values"]) > 1.3
    assert means["values"][1] == pytest.approx(values[7:14].mean(), rel=1e-5) and means["kimg"][1] == 40
    assert curve["kimg"][-1] == 25_000 and curve["values"][-1] == pytest.approx(values[-1], rel=1e-5)


def test_what_no_panel_shows_has_a_panel_of_its_group(tick):
    shown = [*StyleGan2.panels, SPEED_PANEL]
    others = {panel.title: panel.curves for panel in other_panels(shown, [tick(1), tick(2)])}
    assert others["gradient/d_main"] == {"gradient/d_main": "d_main"}
    assert others["Memory"] == {"cpu_mem_gib": "main memory"}
    assert others["Time of a phase"]["ms/g_score"] == "g_score"
    assert not {"count", "skipped", "loss", "logits"} & others.keys()
