"""What a run folder that is there already means for the run that is asked for."""

import json
from pathlib import Path

from smartfast.core.checkpoint import find_checkpoint
from smartfast.errors import UserError


def completed_kimg(run_dir: Path, kimg: float) -> float | None:
    """How far a run of `kimg` kimg came that needs nothing more, None where there is something left to do.

    Complete is one whose report is younger than its newest checkpoint: the report comes last.
    """
    report = run_dir / "report.html"
    if not report.is_file():
        return None
    try:
        index = find_checkpoint(run_dir) / "checkpoint.json"
    except UserError:  # a report and no checkpoint
        return None
    images = json.loads(index.read_text())["images"]
    if images < round(kimg * 1000) or report.stat().st_mtime < index.stat().st_mtime:
        return None
    return images / 1000
