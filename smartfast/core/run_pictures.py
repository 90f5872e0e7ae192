"""The pictures of a run folder that are of a moment of the run, by their files' names."""

import re
from pathlib import Path
from typing import Literal

_NAME = re.compile(r"(fakes|interpolation)(\d+(?:\.\d{3})?)\.png")


def is_of_a_moment(name: str) -> bool:
    """Whether a file's name is that of a sheet of samples or of an interpolation strip."""
    return _NAME.fullmatch(name) is not None


def pictures_of(run_dir: Path, kind: Literal["fakes", "interpolation"]) -> list[tuple[float, Path]]:
    """The pictures of one kind with their thousands of images, the oldest first."""
    matches = [(match, path) for path in run_dir.glob("*.png") if (match := _NAME.fullmatch(path.name))]
    return sorted((float(match[2]), path) for match, path in matches if match[1] == kind)
