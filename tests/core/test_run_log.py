"""metrics.jsonl."""

import warnings
from pathlib import Path

import pytest

from smartfast.core.run_log import RunLog, read_rows


def test_rows_after_the_restart_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    for kimg in (1.0, 2.0, 3.0):
        log.write({"kind": "tick", "kimg": kimg})
    with log.path.open("a") as file:
        file.write('{"kind": "tick", "ki')  # killed while writing
    RunLog(tmp_path, kimg=2.0).write({"kind": "tick", "kimg": 2.5})
    assert [row["kimg"] for row in read_rows(log.path)] == [1.0, 2.0, 2.5]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    log.write({"kind": "tick", "kimg": 1.0, "loss/g_main": float("nan")})
    assert read_rows(log.path) == [{"kind": "tick", "kimg": 1.0, "loss/g_main": None}]


def test_the_last_row_of_a_kind_that_stays_is_known(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    for kind, kimg in (("metrics", 1.0), ("tick", 2.0), ("metrics", 3.0)):
        log.write({"kind": kind, "kimg": kimg})
    log = RunLog(tmp_path, kimg=2.0)
    assert (log.last_kimg("metrics"), log.last_kimg("tick"), log.last_kimg("other")) == (1.0, 2.0, None)


GOOD = b'{"kind": "tick", "kimg": 1.0}\n'
BROKEN = {
    "text": b"hello\n",
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "binary": bytes(range(128, 256)) + b"\n",
    "not UTF-8": b'{"kind": "tick\xff", "kimg": 1.0}\n',
    "no kimg": b'{"kind": "tick"}\n',
    "no kind": b'{"kimg": 1.0}\n',
    "kimg is text": b'{"kind": "tick", "kimg": "1"}\n',
    "kimg is nan": b'{"kind": "tick", "kimg": NaN}\n',
    "kimg is huge": b'{"kind": "tick", "kimg": 1' + b"0" * 400 + b"}\n",
    "kind is a list": b'{"kind": [], "kimg": 1.0}\n',
    "deep": b"[" * 100_000 + b"\n",
    "zeros": bytes(64) + b"\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_log_is_set_aside_and_its_good_rows_go_on(name: str, tmp_path: Path) -> None:
    for content in (BROKEN[name] + GOOD, GOOD + BROKEN[name], GOOD + BROKEN[name] + GOOD.replace(b"1.0", b"1.5")):
        log = tmp_path / "metrics.jsonl"
        log.write_bytes(content)
        with pytest.warns(UserWarning, match=r"metrics\.jsonl .*line [12].* set aside as metrics\.jsonl\.broken"):
            RunLog(tmp_path, kimg=2.0).write({"kind": "tick", "kimg": 3.0})
        assert [row["kimg"] for row in read_rows(log)] == [
            row for row in (1.0, 1.5, 3.0) if str(row) in log.read_text()
        ]
        assert read_rows(log)[0] == {"kind": "tick", "kimg": 1.0}
        (aside,) = tmp_path.glob("*.broken*")
        assert aside.read_bytes() == content
        aside.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            RunLog(tmp_path, kimg=2.0)


@pytest.mark.parametrize("kind", ["a folder", "a link to itself"])
def test_what_stands_in_its_place_is_set_aside(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    if kind == "a folder":
        (log / "deep").mkdir(parents=True)
    else:
        log.symlink_to(log)
    with pytest.warns(UserWarning, match="set aside as metrics.jsonl.broken"):
        RunLog(tmp_path, kimg=2.0).write({"kind": "tick", "kimg": 2.0})
    assert [row["kimg"] for row in read_rows(log)] == [2.0]


def test_a_log_is_there_from_the_start(tmp_path: Path) -> None:
    assert read_rows(RunLog(tmp_path, kimg=0.0).path) == []
