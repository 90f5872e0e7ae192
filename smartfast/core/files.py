"""Files that are complete or absent, and what identifies them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file, with its folder, so that it is either complete or absent, even after a power cut."""
    with appears_complete(Path(path)) as temporary:
        temporary.write_bytes(content)


@contextmanager
def appears_complete(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, in a folder made for it, that takes its name if all goes well, else vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file or folder so that nothing takes it for what it was: `path` + `suffix`, numbered if that is taken.

    Returns:
        The new name.
    """
    aside = path.with_name(path.name + suffix)
    count = 1
    while os.path.lexists(aside):
        count += 1
        aside = path.with_name(f"{path.name}{suffix}.{count}")
    os.replace(path, aside)
    flush(path.parent)
    return aside


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until the disk has the file's content, or the folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
