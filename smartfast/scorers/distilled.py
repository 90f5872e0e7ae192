"""What a distilled scorer knows: the interval of noise that it has learnt, in a file beside its weights."""

import json
from pathlib import Path

from smartfast.core.files import write_atomically
from smartfast.errors import UserError
from smartfast.scorers.fields import check_fields, read_json

DISTILLED_FILE = "distilled.json"
"""In the folder of a scorer of `smartfast train-scorer --teacher`: `teacher`, its name, and `noise_to_signal`."""
_FIELDS = {"teacher": str, "noise_to_signal": list[float]}


def write_learnt_interval(folder: Path, teacher: str, noise_to_signal: tuple[float, float]) -> None:
    """Say in a scorer's folder at which sigma_t / alpha_t, from the least to the most, it has learnt from a teacher."""
    content = {"teacher": teacher, "noise_to_signal": noise_to_signal}
    write_atomically(folder / DISTILLED_FILE, json.dumps(content, indent=2).encode() + b"\n")


def read_learnt_interval(folder: Path) -> tuple[float, float] | None:
    """The least and the most sigma_t / alpha_t that a scorer has learnt, None where nothing limits it.

    Raises:
        UserError: The file holds something else.
    """
    file = folder / DISTILLED_FILE
    if not file.is_file():
        return None
    content = read_json(file)
    check_fields(content, _FIELDS, str(file))
    interval = content.get("noise_to_signal", [])
    if len(interval) != 2 or not 0 < interval[0] <= interval[1] < float("inf"):
        raise UserError(f"{file}: noise_to_signal is {str(interval)[:60]}, expected two numbers 0 < low <= high")
    return interval[0], interval[1]
