"""A child process that does one job after the other, which a hang, a crash or an error that a device keeps may end.

It prints a line of JSON before each job, {"begins": index}, and one behind it, {"ends": index, ...}.
"""

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

START_LIMIT_SEC = 600.0
"""For a child process to begin."""

Answer = dict[str, Any]


def answers(command: Sequence[str], limit_sec: float) -> Iterator[tuple[int, Answer | str]]:
    """What one child process says of its jobs until it ends, or is ended because the caller stops to ask.

    Args:
        command: Starts it.
        limit_sec: After which a job counts as hanging; the process is then killed.

    Yields:
        The index of a job, and what was said behind it; or, as the last, why a job was lost.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, errors.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    running: int | None = None
    try:
        while True:
            line = lines.get(timeout=START_LIMIT_SEC if running is None else limit_sec)
            if line is None:
                break
            answer = _parsed(line)
            if "begins" in answer:
                running = answer["begins"]
            elif "ends" in answer:
                running = None
                yield answer["ends"], answer
        if running is not None:
            yield running, f"the process ended with {_status(process.wait())}{_last(errors)}"
    except queue.Empty:
        if running is not None:
            yield running, f"no answer within {limit_sec:g} s"
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()


def _read(stream: Any, take: Callable[[str | None], None]) -> None:
    for line in stream:
        take(line)
    take(None)


def _parsed(line: str) -> Answer:
    """What a line says; nothing where a library printed it."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def _last(errors: list[str]) -> str:
    lines = [line.strip() for line in errors if line and line.strip()]
    return f": {lines[-1]}" if lines else ""
