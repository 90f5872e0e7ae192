"""The page in a browser: what is drawn, what a reader can do, that text from files stays text, a phone's width."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smartfast.report.build import write_report

EVIL = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

pytestmark = pytest.mark.slow


def address(run_dir: Path) -> str:
    return write_report(run_dir, strip=False).as_uri()


def test_a_report_has_every_section_and_no_complaint(browser: Any, run_dir: Path) -> None:
    browser.open(address(run_dir))
    titles = browser.value("[...document.querySelectorAll('h2')].map((node) => node.innerText)")
    expected = ["Overview", "Warnings", "Metrics", "Samples", "Interpolation", "Losses", "Cost of each phase"]
    assert titles == [*expected, "Configuration"]
    text = browser.text()
    for part in ("Run ", "4 of 8 kimg, about 1m 38s left", "8 (at 2 kimg)", "9.4 %", "g_score"):
        assert part in text, part
    assert browser.value("document.querySelectorAll('.chart svg path').length") >= 6
    assert browser.complaints == []


def test_the_slider_shows_each_sheet(browser: Any, run_dir: Path) -> None:
    browser.open(address(run_dir))
    captions = "[...document.querySelectorAll('.pictures figcaption')].map((node) => node.innerText)"
    assert browser.value(captions) == ["At 18 kimg", "Real images"]
    move = "const s = document.querySelector('.slider input'); s.value = {}; s.dispatchEvent(new Event('input'));"
    for place, caption in ((0, "Before training"), (1, "At 2 kimg"), (9, "At 18 kimg")):
        browser.value(f"(() => {{ {move.format(place)} }})()")
        assert browser.value(captions) == [caption, "Real images"]
        assert browser.value("document.querySelector('.slider output').innerText") == caption
    browser.value("document.querySelector('section .controls input').click()")
    assert browser.value(captions) == ["At 18 kimg"]


def test_smoothing_is_the_running_mean_of_a_direct_sum(browser: Any, run_dir: Path) -> None:
    browser.open(address(run_dir))
    values = [((7 * i) % 11) - 4.0 for i in range(50)]
    found = browser.value(f"smoothed({values}, 0.05)")
    decay = 0.5 ** (1 / 2.5)
    weights = [decay ** (49 - i) for i in range(50)]
    assert found[-1] == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    assert browser.value("smoothed([3, null, 3, 3], 0.5)") == pytest.approx([3, None, 3, 3])
    for low, high in ((0, 1), (-3e-9, 2e-9), (12345, 12346), (-7, 1e6), (0.99, 1.01)):
        ticks = browser.value(f"ticks({low}, {high}, 4, false)")
        assert 2 <= len(ticks) <= 6 and all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_thousands_of_images_are_said_in_full(browser: Any, run_dir: Path) -> None:
    """As the sheets' files are called."""
    browser.open(address(run_dir))
    numbers = (24996, 12344, 100352, 0.064, 2.0)
    assert [browser.value(f"kimgNumber({n})") for n in numbers] == ["24996", "12344", "100352", "0.064", "2"]


def test_the_strong_line_of_a_long_curve_is_that_of_its_means(browser: Any, run_dir: Path) -> None:
    browser.open(address(run_dir))
    extremes = [0, 10] * 20
    line = {"name": "a", "color": "red", "dash": "", "kimg": list(range(40)), "values": extremes}
    means = {"kimg": [1 + 2 * i for i in range(20)], "values": [1] * 20}
    paths = "querySelectorAll('path')].map((path) => path.getAttribute('d'))"
    drawn = "[...chart('', '', [{}], {{smoothing: 0.05, log: false}})." + paths
    _, strong = browser.value(drawn.format(json.dumps(line | {"means": means})))
    assert len({point.split(" ")[1].strip("L") for point in re.split("[ML]", strong) if point}) == 1
    _, wild = browser.value(drawn.format(json.dumps(line)))
    assert len(set(re.findall(r" ([\d.]+)", wild))) > 5


def test_text_of_files_stays_text(browser: Any, tmp_path: Path, tick, write_log) -> None:
    run_dir = tmp_path / EVIL.replace("/", "")
    run_dir.mkdir()
    quoted = EVIL.replace('"', '\\"')
    (run_dir / "config.yaml").write_text(f'data: {{path: "{quoted}", "{quoted}": 1}}\n')
    rows = [tick(1, **{f"ms/{EVIL}": 1.0, f"count/{EVIL}": 3, f"{EVIL}/{EVIL}": 2.0})]
    rows += [{"kind": "warning", "kimg": 2.0, "signature": EVIL, "line": EVIL}]
    rows += [{"kind": "metrics", "kimg": 2.0, "features": EVIL, f"metric/fd_{EVIL}": 2.0}]
    write_log(run_dir, rows)
    browser.open(address(run_dir))
    browser.value("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("document.querySelectorAll('script').length") == 2
    assert browser.value("document.title").startswith("Run ") and "owned" in browser.text()
    assert browser.text().count(EVIL) >= 6
    assert browser.complaints == []


def test_the_browser_refuses_a_script_that_is_not_the_pages(browser: Any, run_dir: Path) -> None:
    path = write_report(run_dir, strip=False)
    path.write_text(path.read_text().replace("</body>", "<script>document.title = 'owned'</script></body>"))
    browser.open(path.as_uri())
    assert browser.value("document.title") != "owned"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(browser: Any, run_dir: Path, width: int) -> None:
    config = (run_dir / "config.yaml").read_text() + f"run: {{dir: {'x' * 300}}}\n"
    (run_dir / "config.yaml").write_text(re.sub(r"run: \{kimg: 8\}", "", config))
    browser.resize(width)
    try:
        browser.open(address(run_dir))
        browser.value("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        assert browser.value("document.documentElement.scrollWidth") <= width
    finally:
        browser.resize(1200)
