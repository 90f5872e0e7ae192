"""The page of a run while it trains: the report is that of the last snapshot, and who looks on changes no bit."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.run import trainer as trainer_module
from smartfast.tools.serving import open_server
from smartfast.tools.watch import Watched

Options = Callable[..., list[str]]


def test_the_report_is_current_at_every_snapshot(
    tiny_options: Options, read_report: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its sheet, its tick or a later one, for training goes on while it is written; a strip only at the end."""
    seen: list[tuple[float, bool, bool]] = []
    ticks: list[float] = []
    write = trainer_module.write_report

    def write_and_read(run_dir: Path, **options: Any) -> Path:
        path = write(run_dir, **options)
        run = read_report(path)
        has_device = "Device" in dict(run["facts"])
        seen.append((run["sheets"][-1]["kimg"], has_device, run["strip"] is not None))
        ticks.append(run["progress"]["kimg"])
        return path

    monkeypatch.setattr(trainer_module, "write_report", write_and_read)
    assert main(["train", *tiny_options(tmp_path)]) == 0
    assert seen == [(kimg, True, kimg == 0.064) for kimg in (0.016, 0.032, 0.048, 0.064)]
    assert all(tick >= sheet for tick, (sheet, _, _) in zip(ticks, seen, strict=True))


@contextmanager
def watched(run_dir: Path) -> Iterator[list[int]]:
    """A reader who asks for everything without a pause; the statuses of the answers."""
    server, is_over = open_server(Watched([run_dir.resolve()]).answer, 0), threading.Event()
    address, statuses = f"http://127.0.0.1:{server.server_address[1]}", []

    def look() -> None:
        while not is_over.is_set():
            for path in ("/", "/runs/0.json", "/runs/0/reals.png"):
                try:
                    with urlopen(address + path) as answer:
                        answer.read()
                        statuses.append(answer.status)
                except OSError as error:  # the picture is not there yet
                    statuses.append(getattr(error, "code", 0))

    threads = [threading.Thread(target=work, daemon=True) for work in (server.serve_forever, look)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        threads[1].join()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_run_with_the_page_open_is_bit_equal(tiny_options: Options, tmp_path: Path) -> None:
    assert main(["train", *tiny_options(tmp_path / "alone")]) == 0
    (tmp_path / "seen").mkdir()
    with watched(tmp_path / "seen") as statuses:
        assert main(["train", *tiny_options(tmp_path / "seen")]) == 0
    assert statuses.count(200) > 10 and set(statuses) <= {200, 404}
    alone, seen = load_newest(tmp_path / "alone").state, load_newest(tmp_path / "seen").state
    assert alone.keys() == seen.keys() and all(torch.equal(alone[name], seen[name]) for name in alone)
    files = [{path.name for path in (tmp_path / name).rglob("*")} for name in ("alone", "seen")]
    assert files[0] == files[1]
