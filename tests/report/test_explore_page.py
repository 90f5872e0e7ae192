"""`smartfast explore` in a browser: a picture of every section, which follows its fields; errors are said."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smartfast.families.saved import open_sampler
from smartfast.tools.explore import Explorer
from smartfast.tools.serving import open_server

pytestmark = pytest.mark.slow


@pytest.fixture
def address(make_checkpoint: Callable) -> Iterator[str]:
    run = make_checkpoint(c_dim=3, channels=3)
    server = open_server(Explorer(open_sampler(run), "a <b>", ["<img src=x>"]).answer, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def set_field(browser: Any, section: int, place: int, value: str) -> None:
    inputs = f"document.querySelectorAll('section')[{section}].querySelectorAll('input, select')[{place}]"
    browser.value(f"{inputs}.value = '{value}'; {inputs}.dispatchEvent(new Event('input'))")


def test_pictures_follow_their_fields(browser: Any, address: str) -> None:
    browser.open(address)
    settled = (
        "[...document.images].every((image) => image.naturalWidth) && !document.body.innerText.includes('Drawing')"
    )
    sources = "[...document.images].map((image) => image.src)"
    browser.wait(settled)
    before = browser.value(sources)
    assert len(before) == 3 and "0: <img src=x>" in browser.text()
    set_field(browser, 0, 0, "20-23")
    set_field(browser, 1, 3, "0.5")
    browser.wait(f"{settled} && {sources}[0] !== '{before[0]}' && {sources}[1] !== '{before[1]}'")
    assert browser.value(sources)[2] == before[2]
    assert "smartfast generate --checkpoint 'a <b>' --seeds 20-23 --noise const --truncation_psi 1" in browser.text()
    browser.value(
        "document.querySelector('fieldset input').value = '0'; "
        "document.querySelector('fieldset input').dispatchEvent(new Event('input'))"
    )
    browser.wait(f"{settled} && {sources}[2] !== '{before[2]}'")
    assert browser.complaints == []


def test_commands_have_no_spaces_that_a_shell_would_split(browser: Any, address: str) -> None:
    browser.open(address)
    set_field(browser, 0, 0, "0-3, 7")
    browser.wait("document.body.innerText.includes('--seeds 0-3,7 ')")
    assert "--seeds 0-3, 7" not in browser.text()


def test_an_error_is_said_and_the_page_goes_on(browser: Any, address: str) -> None:
    browser.open(address)
    set_field(browser, 0, 0, "9-1")
    browser.wait("document.body.innerText.includes('expected rising numbers')")
    set_field(browser, 0, 0, "1")
    browser.wait("!document.body.innerText.includes('expected rising numbers')")
    assert "expected rising numbers" not in browser.text()


@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, width: int) -> None:
    browser.resize(width)
    try:
        browser.open(address)
        browser.wait("[...document.images].every((image) => image.naturalWidth)")
        assert browser.value("document.documentElement.scrollWidth") <= width
    finally:
        browser.resize(1200)
