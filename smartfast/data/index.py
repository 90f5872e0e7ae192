"""What inspecting the images of a data set found, kept so that an image is opened again only if its file has changed.

One JSON file per data set: {"format": 2, "place": ..., "images": [[*Version, *ImageInfo], ...]}. The first process on a
machine that needs it makes it, while the others wait for it.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from smartfast.core.files import write_atomically
from smartfast.core.parallel import ordered_map
from smartfast.data.kept import kept_file, made_by_one_process
from smartfast.data.sources.base import ImageInfo, Mode, Source, Version

_FORMAT = 2
"""To be raised when inspecting the same file finds something else."""

_Known = dict[Version, ImageInfo]
_Check = Callable[[int, ImageInfo], None]


def inspect_images(source: Source, versions: Sequence[Version] | None, check: _Check) -> list[ImageInfo]:
    """What is known of every image of `source`, from the index as far as that goes.

    Args:
        source: Where the images are.
        versions: The state of their files, taken before this call; None inspects them all and keeps nothing.
        check: Called with every index and its ImageInfo, in order; what it raises ends the inspection.

    Raises:
        UserError: The first image that is not intact, unless `check` refuses one before it.
    """
    if versions is None:
        return _complete(source, [None] * len(source), check)
    path = kept_file(source.place, ".json")
    try:
        infos = _look_up(_read(path, source.place), versions)
    except ValueError:  # reported by the process that makes it anew
        infos = [None]
    if None not in infos:
        return _complete(source, infos, check)
    with made_by_one_process(path, "inspects all images") as is_writable:
        infos = _look_up(_read_or_warn(path, source.place), versions)
        unknown = infos.count(None)
        try:
            return _complete(source, infos, check)
        finally:  # after a bad image or a signal too: the next start goes on from here
            if is_writable and infos.count(None) < unknown:
                _write(path, source.place, versions, infos)


def _look_up(known: _Known, versions: Sequence[Version]) -> list[ImageInfo | None]:
    return [known.get(version) for version in versions]


def _complete(source: Source, infos: list[ImageInfo | None], check: _Check) -> list[ImageInfo]:
    """Inspects in place what `infos` lacks."""
    missing = [index for index, info in enumerate(infos) if info is None]
    inspected = ordered_map(source.inspect, missing, total=len(missing), title=f"Checking {source.name}")
    complete = []
    for index, info in enumerate(infos):
        found = info or next(inspected)
        infos[index] = found
        check(index, found)
        complete.append(found)
    return complete


def _read(path: Path, place: str) -> _Known:
    """Raises ValueError if there is a file, but not an index of the data set at `place`."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict) or (content.get("format"), content.get("place")) != (_FORMAT, place):
        raise ValueError(f"expected format {_FORMAT} of {place}")
    try:
        return {Version(*row[:4]): _info(*row[4:]) for row in content["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _info(width: int, height: int, mode: Mode, stamp: str, several_frames: bool) -> ImageInfo:
    info = ImageInfo(width, height, mode, stamp, several_frames)
    if [type(value) for value in info] != [int, int, str, str, bool] or mode not in get_args(Mode):
        raise ValueError(f"expected width, height, mode, stamp and several_frames, found {list(info)}")
    return info


def _read_or_warn(path: Path, place: str) -> _Known:
    try:
        return _read(path, place)
    except ValueError as error:
        warnings.warn(f"index of images {path} cannot be used ({error}): made anew", stacklevel=2)
        return {}


def _write(path: Path, place: str, versions: Sequence[Version], infos: Sequence[ImageInfo | None]) -> None:
    rows = [[*version, *info] for version, info in zip(versions, infos, strict=True) if info is not None]
    try:
        write_atomically(path, json.dumps({"format": _FORMAT, "place": place, "images": rows}).encode())
    except OSError as error:
        warnings.warn(f"index of images {path} cannot be written: {error}", stacklevel=2)
