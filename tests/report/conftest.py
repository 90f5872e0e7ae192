"""Run folders as training leaves them, written by hand, and a browser to look at their pages."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.core.grids import save_grid

CONFIG = """
run: {kimg: 8}
data: {path: "<digits>"}
optim: {batch: 32}
smart: {scorer: digits, weight: 0.01, frequency: 8}
"""


def _tick(number: int, **changes: Any) -> dict[str, Any]:
    counts = {"d_main": 64, "d_r1": 4, "g_main": 56, "g_score": 8, "g_path": 16}
    ms = {"d_main": 40.0, "d_r1": 90.0, "g_main": 30.0, "g_score": 75.0, "g_path": 57.5}
    return {
        "kind": "tick",
        "kimg": 2.0 * number,
        "tick": number,
        "time_sec": 7.0 * number,
        "left_sec": 100.0 - number,
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
        "gradient/d_main": 2.0,
        **{f"count/{phase}": count for phase, count in counts.items()},
        **{f"ms/{phase}": value for phase, value in ms.items()},
        **changes,
    }


@pytest.fixture(scope="session")
def tick() -> Callable[..., dict[str, Any]]:
    """tick(number, **changes): a tick of 2 kimg, 64 iterations, of which 8 with the score term; 6.4 s, of which 0.2 s
    are outside the phases."""
    return _tick


@pytest.fixture(scope="session")
def write_log() -> Callable[[Path, list[dict[str, Any]]], None]:
    """write_log(run_dir, rows): metrics.jsonl of a run folder."""

    def write(run_dir: Path, rows: list[dict[str, Any]]) -> None:
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


@pytest.fixture
def run_dir(make_checkpoint: Callable, write_log: Callable, tmp_path: Path) -> Path:
    """A run folder with two ticks, three evaluations, a checkpoint and nine sample sheets."""
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
    write_log(tmp_path, [_tick(1), _tick(2), *metrics])
    for name in ["reals", "fakes_init", *(f"fakes{k:06d}" for k in range(2, 20, 2))]:
        save_grid(torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8), tmp_path / f"{name}.png", columns=3)
    return tmp_path


_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"


_AS_3_AND_4 = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # where Chromium expects its pipes


class Browser:
    """One page of a headless Chromium of its own, driven through a pipe by its own protocol; a context manager.

    Args:
        program: Chromium.
        width: Of the window in pixels.
    """

    def __init__(self, program: str, width: int = 1200) -> None:
        self._program, self._width = program, width
        self._number, self._session = 0, ""
        self.complaints: list[str] = []

    def __enter__(self) -> "Browser":
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [self._program, *_OPTIONS.split(), f"--user-data-dir={self._home.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AS_3_AND_4, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._replies = os.fdopen(self._in, "rb")
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self.resize(self._width)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._replies.close()
        os.close(self._out)
        self._home.cleanup()

    def resize(self, width: int) -> None:
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, address: str) -> None:
        """Go to a page and wait until its script has drawn it."""
        self.complaints.clear()
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.querySelector('main section')")

    def wait(self, condition: str, sec: float = 20) -> None:
        """Wait until an expression is true."""
        loop = f"""(async () => {{
            for (let i = 0; i < {sec * 20}; i++) {{
                if ({condition}) return true;
                await new Promise((done) => setTimeout(done, 50));
            }}
            return false;
        }})()"""
        assert self.value(loop), (condition, self.complaints, self.value("document.body.innerText"))

    def value(self, expression: str) -> Any:
        """What an expression is, awaited; JSON values."""
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self) -> str:
        return self.value("document.body.innerText")

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = json.loads(self._read())
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]
            if reply.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(reply["params"]["exceptionDetails"]))
            elif reply.get("method") == "Log.entryAdded" and reply["params"]["entry"]["level"] == "error":
                self.complaints.append(str(reply["params"]["entry"]))

    def _read(self) -> bytes:
        parts = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            assert byte, "the browser is gone"
            parts += byte
        return bytes(parts)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, 1200 pixels wide."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is here: apt-get install chromium")
    with Browser(program) as opened:
        yield opened
