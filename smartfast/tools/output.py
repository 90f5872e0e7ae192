"""Where the tools write: one line where a folder or disk takes nothing, if it can be known before anything is drawn."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from smartfast.errors import UserError


def check_writable(folder: Path, name: str) -> None:
    """Try to write into a folder, or into the one that it would be made in; `name` as in `writing`.

    Raises:
        UserError: It takes nothing.
    """
    with writing(name):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turns what the system says of a write that fails into one line; `name` is that of the option and the file.

    Raises:
        UserError: The write failed.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            f"{name} cannot be written ({reason}), expected a folder with room that can be written"
        ) from error
