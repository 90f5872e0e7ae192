"""Files that are complete or absent, and what identifies them."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from smartfast.core.text import printable
from smartfast.errors import UserError

_SHOWN_LENGTH = 200


def user_path(text: str, setting: str) -> Path:
    """`text` as a path, whether something is there or not; `~` and `~name` are homes.

    Args:
        setting: Where the text comes from, for the message.

    Raises:
        UserError: The system takes no such path (too long, no such home, a ring of links), or may not look there.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        shown = printable(text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}...")
        raise UserError(f"{setting}: {shown}: {reason}, expected a path that can be opened here") from error
    return path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file, with its folder, so that it is either complete or absent, even after a power cut."""
    with appears_complete(Path(path)) as temporary:
        temporary.write_bytes(content)


@contextmanager
def appears_complete(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, in a folder made for it, that takes its name if all goes well, else vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appear_complete(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, whose files move into that one by one if all goes well, else vanish.

    They are for whom the umask says, whatever made them.
    """
    temporary = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: its files would move as well
    try:
        temporary.mkdir(parents=True)
        yield temporary
        folder.mkdir(exist_ok=True)
        mode = temporary.stat().st_mode & 0o666
        for file in sorted(temporary.iterdir()):
            file.chmod(mode)
            flush(file)
            os.replace(file, folder / file.name)
        flush(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
