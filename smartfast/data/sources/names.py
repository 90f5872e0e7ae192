"""Which files of a folder or .zip are images of the data set: each once, none of the system's."""

import os
import posixpath
import warnings
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from smartfast.core.text import printable
from smartfast.data.sources.encoded import IMAGE_SUFFIXES
from smartfast.data.sources.labels import LABEL_FILE
from smartfast.errors import UserError

_SYSTEM_FOLDERS = frozenset(
    "__macosx @eadir @tmp @recycle @recently-snapshot @sharebin #recycle #snapshot $recycle.bin lost+found".split()
    + ["system volume information"]
)
"""Thumbnails, waste and snapshots of desktops and network storage, in small letters; hidden ones begin with a dot."""


def files_below(root: Path) -> list[str]:
    """The relative names, with forward slashes, of all files below a folder.

    Links are followed, after everything else, to what has not been found under its own name or through another link.

    Raises:
        UserError: A folder cannot be read.
    """
    names, twins = [], []
    folders, links = deque([("", os.path.realpath(root))]), deque[tuple[str, str]]()
    seen: set[str] = set()
    while folders or links:
        name, place = folders.popleft() if folders else links.popleft()
        if place in seen:
            twins.append(name)
            continue
        seen.add(place)
        if name and not os.path.isdir(place):
            names.append(name)
            continue
        for entry in visible_entries(place):
            below = posixpath.join(name, entry.name)
            if entry.is_symlink():
                links.append((below, os.path.realpath(entry.path)))
            elif entry.is_dir():
                folders.append((below, entry.path))
            elif entry.is_file():
                seen.add(entry.path)
                names.append(below)
    if twins:
        what = f"{len(twins)} links lead to what is there already and are left out"
        warnings.warn(f"{printable(str(root))}: {what}, e.g. {printable(twins[0])}", stacklevel=3)
    return names


def zip_names(entries: Iterable[str], where: str) -> dict[str, str]:
    """From the names of a .zip's files below its top to their names as they stand in it, in which `./` may lead.

    `entries` may have folders among them, which do not count. Where backslashes stand in names and
    slashes in none, as older .NET writes them, the backslashes part folders.

    Raises:
        UserError: A name leads out of the .zip.
    """
    found, twins, entries = dict[str, str](), [], list(entries)
    separator = "/" if any("/" in entry for entry in entries) else "\\"
    for entry in entries:
        if entry.endswith(separator):
            continue  # a folder
        name = posixpath.normpath(entry.replace(separator, "/"))
        if name.startswith(("/", "../")):
            raise UserError(f"{where}/{printable(entry)}: leads out of the .zip, expected names below its top")
        if name in found:
            twins.append(name)
        found[name] = entry
    if twins:
        what = f"{len(twins)} names occur more than once, the last of each is taken"
        warnings.warn(f"{where}: {what}, e.g. {printable(twins[0])}", stacklevel=3)
    return found


def select_images(names: Iterable[str], where: str) -> list[str]:
    """The names of images among `names`, sorted; the system's files do not count, other files are warned of.

    Raises:
        UserError: There is no image.
    """
    visible = [name for name in names if not any(_is_hidden(part) for part in name.split("/"))]
    images = sorted(name for name in visible if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"data.path: {where} holds no image, expected files {' '.join(sorted(IMAGE_SUFFIXES))}")
    known = set(images)
    others = sorted(name for name in visible if name not in known and posixpath.basename(name) != LABEL_FILE)
    if others:
        what = f"{len(others)} files that are no images are left out"
        warnings.warn(f"{where}: {what}, e.g. {printable(others[0])}", stacklevel=3)
    return images


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part.casefold() in _SYSTEM_FOLDERS


def visible_entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds but for the system's files and folders, in the order of the names.

    Raises:
        UserError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{printable(folder)}: cannot be read ({reason}), expected a folder that can be") from error
