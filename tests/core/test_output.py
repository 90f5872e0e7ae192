"""Output that nobody reads any more is a hang-up, not a traceback."""

import os
import subprocess
import sys

import pytest

WRITER = """
import signal, sys
from smartfast.core.output import hang_up_when_closed
hangups = []
signal.signal(signal.SIGHUP, lambda number, frame: hangups.append(number))
with hang_up_when_closed():
    for line in range(100_000):
        print("line", line, file=getattr(sys, sys.argv[1]))
        if hangups:
            break
    print("more", file=getattr(sys, sys.argv[1]))
sys.exit(40 + len(hangups))
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe(stream: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, stream], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert getattr(process, stream).readline() == "line 0\n", "lines come one by one, also through a pipe"
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert other.read() == "", "no traceback at the exit of Python either"
    other.close()
    assert process.wait() == 41, "one hang-up"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_under_the_log() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", WRITER, "stdout"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (process.returncode, process.stderr) == (41, "")
