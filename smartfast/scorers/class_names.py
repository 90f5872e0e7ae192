"""What the classes of a scorer are called, in a file beside its weights."""

from pathlib import Path

from smartfast.core.text import printable
from smartfast.errors import UserError
from smartfast.scorers.fields import read_json

CLASS_NAMES_FILE = "class_names.json"
"""In the folder of a scorer of `smartfast train-scorer`: a list of texts."""


def read_class_names(folder: Path, count: int) -> list[str] | None:
    """The names of classes 0 .. count - 1, None where there are no classes or nobody says.

    Raises:
        UserError: The file holds something else.
    """
    file = folder / CLASS_NAMES_FILE
    if not count or not file.is_file():
        return None
    names = read_json(file)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: holds {str(names)[:60]!r}, expected a list of {count} texts, one per class")
    return [printable(name) for name in names]
