"""When each hypothesis of a study was written down: before its runs, or after some had shown what comes out."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smartfast.core.files import write_atomically
from smartfast.study.hypothesis import Hypothesis
from smartfast.study.plan import Plan

FILE = "hypotheses.json"


def register(plan: Plan, out: Path, *, complete_cells: int) -> None:
    """Note the hypotheses that are new; those that are gone stay noted.

    complete_cells: Cells that are complete by now.
    """
    noted = _read(out)
    new = [h for h in plan.hypotheses if _key(h) not in [entry["hypothesis"] for entry in noted]]
    if new:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        noted += [{"hypothesis": _key(h), "noted": now, "complete_cells": complete_cells} for h in new]
        write_atomically(out / FILE, (json.dumps(noted, indent=1) + "\n").encode())


def when_decided(hypothesis: Hypothesis, out: Path) -> str:
    """In words, whether a hypothesis was there before any result."""
    for entry in _read(out):
        if entry["hypothesis"] == _key(hypothesis):
            count, day = entry["complete_cells"], entry["noted"][:10]
            return f"before any result ({day})" if count == 0 else f"when {count} cells were complete ({day})"
    return "after the last run"


def withdrawn(plan: Plan, out: Path) -> list[str]:
    """Hypotheses that were noted and that the study no longer has, each as its sentence and test."""
    known = [_key(h) for h in plan.hypotheses]
    return [" | ".join(entry["hypothesis"]) for entry in _read(out) if entry["hypothesis"] not in known]


def _key(hypothesis: Hypothesis) -> list[str]:
    return [hypothesis.text, hypothesis.metric, hypothesis.test]


def _read(out: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((out / FILE).read_text())
    except (OSError, ValueError):
        return []
