"""JSON files that others wrote, read and checked before anything relies on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from smartfast.errors import UserError


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not readable ({reason}), expected JSON as diffusers writes it") from error


def check_fields(content: Any, kinds: Mapping[str, Any], where: str) -> None:
    """Compare a JSON object with the type hints of its fields; fields without a hint are let through.

    Args:
        content: What the file holds.
        kinds: Hints by field, of bool, int, float, str, None, literals, lists, tuples, sequences and unions of these.
            An int is a float, a bool is neither, and text is only text.
        where: The file, for messages.

    Raises:
        UserError: `content` is no object, or a field of another type.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds {str(content)[:60]!r}, expected an object of fields")
    for field, kind in kinds.items():
        if field in content and not _fits(content[field], kind):
            expected = kind.__name__ if isinstance(kind, type) else kind
            raise UserError(f"{where}: {field} is {repr(content[field])[:60]}, expected {expected}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if get_origin(kind) in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(kind)[0]) for item in value)
    return type(value) is kind or (kind is float and type(value) is int)
