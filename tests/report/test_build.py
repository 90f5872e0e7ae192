"""report.html: complete, self-contained, honest about what is missing; the cost table adds up."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.core.grids import save_grid
from smartfast.errors import UserError
from smartfast.families.base import Panel
from smartfast.families.saved import open_sampler
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.report import quality
from smartfast.report.build import headline, interpolation_strip, phase_times, write_report
from smartfast.report.plots import SPEED_PANEL, draw_panels, smooth

PHASES = {"g_main": None, "g_score": "g_main", "g_path": None, "d_main": None, "d_r1": None}
SCORE = "g_score, beyond g_main"

CONFIG = """
data: {path: "<digits>"}
optim: {batch: 32}
smart: {scorer: digits, weight: 0.01, frequency: 8}
"""


def tick(number: int, **changes) -> dict:
    """A tick of 2 kimg: 64 iterations, of which 8 with the score term; 6.4 s, of which 0.2 s outside the phases."""
    counts = {"d_main": 64, "d_r1": 4, "g_main": 56, "g_score": 8, "g_path": 16}
    ms = {"d_main": 40.0, "d_r1": 90.0, "g_main": 30.0, "g_score": 75.0, "g_path": 57.5}
    return {
        "kind": "tick",
        "kimg": 2.0 * number,
        "tick": number,
        "time_sec": 7.0 * number,
        "sec_per_tick": 6.4,
        "sec_per_kimg": 3.2,
        "maintenance_sec": 0.6,
        "cpu_mem_gib": 1.0 + number / 10,
        "gpu_mem_gib": 0.0,
        "images_per_sec": 312.5,
        "skipped_steps": 3,
        "loss/d_main": 1.2 - number / 50,
        "loss/g_main": 0.9,
        "logits/real": 0.4,
        "logits/fake": -0.4,
        **{f"count/{phase}": count for phase, count in counts.items()},
        **{f"ms/{phase}": value for phase, value in ms.items()},
        **changes,
    }


def write_log(run_dir: Path, rows: list[dict]) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_dir(make_checkpoint, tmp_path) -> Path:
    """A run folder as training leaves it, with nine sample sheets."""
    (tmp_path / "checkpoints").symlink_to(make_checkpoint(c_dim=3) / "checkpoints")
    (tmp_path / "config.yaml").write_text(CONFIG)
    metrics = [
        {
            "kind": "metrics",
            "kimg": kimg,
            "features": "digits",
            "metric/fd_digits": fd,
            "metric/diversity_digits": spread,
        }
        for kimg, fd, spread in [(0.0, 90.0, 1.4), (2.0, 8.0, 0.5), (4.0, 9.5, 0.875)]
    ]
    write_log(tmp_path, [tick(1), tick(2), *metrics])
    for name in ["reals", "fakes_init", *(f"fakes{k:06d}" for k in range(2, 20, 2))]:
        save_grid(torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8), tmp_path / f"{name}.png", columns=3)
    return tmp_path


class Collector(HTMLParser):
    """Tags, sources and visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.sources, self.captions, self.text, self.open_tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "meta"):
            self.open_tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.captions += [value for name, value in attrs if name == "alt"]

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open_tags:
            self.text.append(data)


def read(path: Path) -> Collector:
    page = Collector()
    page.feed(path.read_text())
    assert page.open_tags == []
    return page


def test_report_is_complete_and_needs_no_other_file(run_dir):
    target = write_report(run_dir)
    assert target == run_dir / "report.html"
    page = read(target)
    text = " ".join(page.text)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://", target.read_text())
    for title in ("Overview", "Metrics", "Samples", "Interpolation", "Losses", "Cost of each phase", "Configuration"):
        assert title in text
    assert "Data <digits>, batch 32, score term of digits with weight 0.01 every 8 steps" in text
    assert "8 (at 2 kimg)" in text and "9.5" in text  # the best and the last distance
    assert "0.875 (at 4 kimg)" in text  # the diversity that is nearest to that of the data
    sheets = [caption for caption in page.captions if caption.startswith("At ")]
    assert len(sheets) == 6 and sheets[0] == "At 2 kimg" and sheets[-1] == "At 18 kimg"
    assert page.captions.index("Real images") < page.captions.index("Before training") < page.captions.index(sheets[0])
    assert f"torch {torch.__version__}" in text


def metric_rows(features: str | None, **values: float) -> list[dict]:
    named = {f"metric/{name}": value for name, value in values.items()} | {"metric/seconds": 3.0}
    about = {} if features is None else {"features": features}
    return [{"kind": "metrics", "kimg": kimg, **about, **named} for kimg in (0.0, 2.0)]


@pytest.mark.parametrize(
    ("features", "rows", "names", "titles"),
    [
        ("digits", metric_rows("digits", fd_digits=4.0), ["fd_digits"], ["Fréchet distance, digits features"]),
        ("inception", metric_rows("inception", fid=4.0), ["fid"], ["Fréchet distance (FID)"]),
        ("digits", metric_rows(None, fid=4.0), ["fd_digits"], ["Fréchet distance, digits features"]),
        ("inception", metric_rows(None, fid=4.0), ["fid"], ["Fréchet distance (FID)"]),
        ("digits", metric_rows(None, isc=4.0, kid=1.0), ["kd_digits", "cs_digits"], ["Classifier score, digits"]),
        ("inception", metric_rows(None, isc=4.0, kid=1.0), ["kid", "isc"], ["Inception score", "(KID)"]),
        ("digits", metric_rows(None, fid=9.0) + metric_rows("digits", fd_digits=4.0), ["fd_digits"], []),
        ("digits", metric_rows("inception", fid=9.0) + metric_rows("digits", fd_digits=4.0), ["fid", "fd_digits"], []),
        ("inception", metric_rows(None, precision=0.5, recall=0.1), ["precision_inception", "recall_inception"], []),
    ],
)  # fmt: skip
def test_every_metric_of_the_report_names_its_features(tmp_path, monkeypatch, features, rows, names, titles):
    """Rows without `features` are older than the names, and of the run's features."""
    drawn: list[str] = []

    def draw(panels, *args, **options):
        drawn.extend(panel.title for panel in panels)
        return draw_panels(panels, *args, **options)

    monkeypatch.setattr(quality, "draw_panels", draw)
    (tmp_path / "config.yaml").write_text(f"metrics: {{features: {features}}}\n")
    write_log(tmp_path, [tick(1), *rows])
    text = " ".join(read(write_report(tmp_path)).text)
    assert re.findall(r"(\w+) \((?:lower|higher|1) ", text) == names
    assert all(any(title in panel for panel in drawn) for title in titles)
    assert ("FID" in " ".join([text, *drawn])) == ("fid" in names)


def test_report_of_an_almost_empty_run(tmp_path):
    write_log(tmp_path, [])
    text = " ".join(read(write_report(tmp_path)).text)
    assert "no tick has been logged" in text and "Not available" in text and "No sample sheets" in text


def test_values_that_are_not_finite_do_not_stop_the_report(run_dir):
    write_log(run_dir, [tick(1), tick(2, **{"loss/d_main": float("nan"), "loss/g_main": float("inf")})])
    assert "Losses" in " ".join(read(write_report(run_dir)).text)


def test_no_log_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="found no metrics.jsonl"):
        write_report(tmp_path)


def test_phase_times_add_up_and_isolate_the_score_term():
    slow_start = tick(1, sec_per_tick=60.0, sec_per_kimg=30.0, **{"ms/d_main": 900.0})
    times = {time.phase: time for time in phase_times([slow_start, tick(2), tick(3)], PHASES)}
    assert list(times) == ["g_main", SCORE, "g_path", "d_main", "d_r1", "everything else"]
    assert times["d_main"].ms_per_run == pytest.approx(40.0)
    assert times["d_main"].runs_per_kimg == pytest.approx(32.0)
    assert times["g_main"].runs_per_kimg == pytest.approx(32.0)  # steps with the score term are g_main steps too
    assert times[SCORE].ms_per_run == pytest.approx(45.0)
    assert times[SCORE].sec_per_kimg == pytest.approx(4 * 0.045)
    expected = {"d_main": 1.28, "d_r1": 0.18, "g_main": 0.96, SCORE: 0.18, "g_path": 0.46}
    assert {name: times[name].sec_per_kimg for name in expected} == pytest.approx(expected)
    assert sum(time.sec_per_kimg for time in times.values()) == pytest.approx(3.2)


def test_phase_times_without_plain_generator_steps():
    always = tick(1, **{"count/g_score": 64})
    del always["count/g_main"], always["ms/g_main"]
    times = {time.phase: time for time in phase_times([always], PHASES)}
    assert times["g_score"].ms_per_run == 75.0 and "g_main" not in times and SCORE not in times


def test_phases_of_a_run_that_names_none_are_those_of_its_ticks():
    times = {time.phase: time for time in phase_times([tick(1), tick(2)], {})}
    assert list(times) == ["d_main", "d_r1", "g_main", "g_path", "g_score", "everything else"]
    assert sum(time.sec_per_kimg for time in times.values()) == pytest.approx(3.2)


def test_headline_values():
    facts = dict(headline([tick(1, images_per_sec=1.0), tick(2)], {"device": "a <GPU>", "versions": {"torch": "9"}}))
    assert facts["Real images seen"] == "4.0 thousand" and facts["Wall time"] == "14s"
    assert facts["Speed"].startswith("312.5 images/s, 3.20 s")
    assert facts["Skipped optimizer steps"] == "3" and facts["Memory"] == "1.20 GiB of main memory"
    assert facts["Device"] == "a <GPU>" and facts["Versions"] == "torch 9"


@pytest.mark.parametrize(("c_dim", "channels"), [(0, 3), (3, 1)])
def test_strip_rows_go_from_image_to_image(make_checkpoint, c_dim, channels):
    strip = interpolation_strip(open_sampler(make_checkpoint(c_dim=c_dim, channels=channels)))
    assert isinstance(strip, Image.Image) and strip.size == (8 * (10 * 9 + 1), 8 * (5 * 9 + 1))
    pixels = np.array(strip).astype(int)
    first, second, last = pixels[8:72, 8:72], pixels[8:72, 80:144], pixels[8:72, 656:720]
    assert np.abs(first - last).mean() > np.abs(first - second).mean() > 0


def test_smoothing_against_a_direct_sum():
    values = np.random.default_rng(0).normal(size=50)
    decay = 0.5 ** (1 / 2.5)
    weights = decay ** np.arange(49, -1, -1)
    assert smooth(values)[-1] == pytest.approx((weights * values).sum() / weights.sum(), rel=1e-12)
    assert smooth(values)[0] == values[0]
    assert np.allclose(smooth(np.full(30, 7.0)), 7.0)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_plots_are_valid_svg(count):
    panels = [*StyleGan2.panels, SPEED_PANEL, Panel("absent", "unit", {"loss/absent": "x"})]
    drawing = draw_panels(panels, [tick(i) for i in range(1, count + 1)], smoothed=True)
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert draw_panels(panels[-1:], [tick(1)], smoothed=True) is None


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", None])
@pytest.mark.parametrize("name", ["reals", "fakes000002"])
def test_a_sheet_that_cannot_be_read_is_named_in_its_place(content: bytes | None, name: str, run_dir: Path) -> None:
    sheet = run_dir / f"{name}.png"
    sheet.write_bytes(sheet.read_bytes()[:-30] if content is None else content)
    (run_dir / "fakes1 (copy).png").write_bytes(b"")
    page = read(write_report(run_dir))
    assert f"{name}.png cannot be read" in " ".join(page.text) and len(page.sources) > 3


def test_sheets_below_a_thousand_images_are_in_order(run_dir: Path) -> None:
    for name in ("000000.040", "000001.002"):
        (run_dir / f"fakes{name}.png").write_bytes((run_dir / "fakes000002.png").read_bytes())
    for later in range(4, 20, 2):
        (run_dir / f"fakes{later:06d}.png").unlink()
    captions = [caption for caption in read(write_report(run_dir)).captions if caption.startswith("At ")]
    assert captions == ["At 0.04 kimg", "At 1.002 kimg", "At 2 kimg"]


@pytest.mark.parametrize("row", [{}, {"sec_per_tick": None}, {"images_per_sec": "fast"}, {"time_sec": []}])
def test_a_tick_without_its_times_is_left_out(row: dict, run_dir: Path) -> None:
    bad = tick(3, **row) if row else {"kind": "tick", "kimg": 6.0}
    write_log(run_dir, [tick(1), bad, tick(2)])
    assert "4.0 thousand" in " ".join(read(write_report(run_dir)).text)
