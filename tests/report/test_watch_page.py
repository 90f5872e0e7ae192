"""`smartfast watch` in a browser: news while the page is open, several runs, what differs."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smartfast.tools.serving import open_server
from smartfast.tools.watch import Watched, find_runs

pytestmark = pytest.mark.slow


def add_rows(run: Path, *numbers: int) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for number in numbers:
            row = {"kind": "tick", "kimg": float(number), "time_sec": 1.0, "sec_per_tick": 1.0, "sec_per_kimg": 1.0}
            file.write(json.dumps(row | {"images_per_sec": 1000.0, "loss/d_main": 1 / number}) + "\n")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("low", "high")]
    for rate, run in enumerate(found):
        run.mkdir()
        (run / "config.yaml").write_text(f"run: {{kimg: 9}}\noptim: {{lr_g: 0.{rate}1, batch: 8}}\n")
        add_rows(run, 1, 2)
        Image.new("L", (8, 8), 100 * rate).save(run / "fakes000002.png")
    return found


@pytest.fixture
def address(runs: list[Path]) -> Iterator[str]:
    server = open_server(Watched(find_runs([str(run) for run in runs])).answer, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_two_runs_while_they_train(browser: Any, address: str, runs: list[Path]) -> None:
    browser.open(address)
    text = browser.text()
    assert "2 runs" in text and "optim.lr_g\t0.01\t0.11" in text and "optim.batch" not in text
    legend = "[...document.querySelector('.chart .legend').children].map((node) => node.innerText)"
    assert browser.value(legend) == ["low", "high"]
    loaded = "[...document.querySelectorAll('.pictures img')].every((image) => image.naturalWidth === 8)"
    browser.wait(f"document.querySelectorAll('.pictures img').length === 2 && {loaded}")
    add_rows(runs[0], 5)
    Image.new("L", (8, 8), 50).save(runs[0] / "fakes000005.png")
    browser.wait("document.body.innerText.includes('5 of 9 kimg')")
    assert "low: At 5 kimg" in browser.text() and "high: At 2 kimg" in browser.text()
    browser.value("document.querySelectorAll('.runs input')[1].click()")
    assert "high: At" not in browser.text() and "lr_g" not in browser.text()
    assert browser.complaints == []


def test_who_uses_the_keyboard_keeps_the_place(browser: Any, address: str, runs: list[Path]) -> None:
    browser.open(address)
    browser.wait("document.querySelector('.controls input[type=range]')")
    browser.value("document.querySelector('.controls input[type=range]').focus()")
    for value in (10, 11):
        slider = "document.activeElement"
        browser.value(f"{slider}.value = {value}; {slider}.dispatchEvent(new Event('change'))")
        assert browser.value(f"{slider}.type + {slider}.value") == f"range{value}"
    add_rows(runs[0], 5)
    browser.wait("document.body.innerText.includes('5 of 9 kimg')")
    assert browser.value("document.activeElement.dataset.key") == "smoothing"


def test_news_of_one_run_is_shown_where_another_cannot_be_read(browser: Any, address: str, runs: list[Path]) -> None:
    browser.open(address)
    usual = "const usual = window.fetch; window.fetch = (path, options) => path.includes('/1.json')"
    browser.value(f"(() => {{ {usual} ? Promise.reject(new Error('gone')) : usual(path, options); }})()")
    add_rows(runs[0], 5)
    browser.wait("document.body.innerText.includes('5 of 9 kimg') && document.body.innerText.includes('No news: gone')")
    assert "low: At 2 kimg" in browser.text() and "high: At 2 kimg" in browser.text()


def test_runs_that_share_a_colour_have_other_dashes(browser: Any, address: str) -> None:
    browser.open(address)
    panel = "{curves: [{}]}"
    first, ninth = (browser.value(f"linesOf(named({panel}, {i}), {panel}, true)[0]") for i in (0, 8))
    assert first["color"] == ninth["color"] and first["dash"] != ninth["dash"]


def test_a_server_that_is_gone_is_said(browser: Any, address: str, runs: list[Path]) -> None:
    browser.open(address)
    (runs[1] / "config.yaml").unlink()
    (runs[1] / "config.yaml").mkdir()
    browser.wait(
        "document.body.innerText.includes('config.yaml cannot be read') || document.querySelector('details pre')"
    )
    browser.value("window.fetch = () => Promise.reject(new Error('refused'))")
    browser.wait("document.querySelector('[role=status]').innerText.includes('No news: refused')")
    assert "2 of 9 kimg" in browser.text()
