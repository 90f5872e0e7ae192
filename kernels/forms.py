"""The few forms that a kernel's launch can take: tiles and warps. The first unless another was measured faster here.

Every launch asks `pick` with a key of what it works on; `smartfast.kernels.tune` forces one form after the other, times
them, and has the fastest taken by the launches that asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

Form = TypeVar("Form")

DEFAULT = ""
"""Name of the form that is taken where nothing was measured."""

_taken: dict[str, str] = {}
_forced: str | None = None
_asked: dict[str, list[str]] = {}


def are_asked_for() -> bool:
    """Whether any launch has to ask; otherwise all take their default."""
    return _forced is not None or bool(_taken)


def pick(key: str, forms: Mapping[str, Form]) -> Form:
    """The form that the launch of `key` takes, of those by name, `DEFAULT` among them."""
    if _forced is not None:
        _asked[key] = list(forms)
    name = _taken.get(key, DEFAULT) if _forced is None else _forced
    return forms.get(name, forms[DEFAULT])


def take(key: str, name: str) -> None:
    """Have the launches of `key` take the form `name`, or their default where they lack it, in this process."""
    _taken[key] = name


@contextmanager
def forced(name: str) -> Iterator[dict[str, list[str]]]:
    """Have every launch within the block that has a form `name` take it.

    Yields:
        The names of the forms of all launches that asked so far, by their keys.
    """
    global _forced
    outer, _forced = _forced, name
    _asked.clear()
    try:
        yield _asked
    finally:
        _forced = outer
