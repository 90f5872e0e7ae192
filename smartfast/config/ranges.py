"""The ranges of settings, as types: jsonargparse's restricted numbers, all of them finite, and paths.

A type's name is what help and messages call it. Values that have been parsed are plain ints, floats and strings again:
`in_range` checks a tree of settings, whoever made it, and gives it back so.
"""

import dataclasses
import math
import os
import types
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from jsonargparse.typing import ClosedUnitInterval, extend_base_type, restricted_number_type

from smartfast.config.schedule import Schedule
from smartfast.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

_LARGEST_INT = 2**31 - 1
_LONGEST_NAME_BYTES, _LONGEST_PATH_BYTES = 255, 4095


def _whole(low: int, high: int = _LARGEST_INT) -> type:
    return restricted_number_type(f"whole number from {low} to {high}", int, [(">=", low), ("<=", high)])


def _number(words: str, *bounds: tuple[str, float]) -> type:
    return restricted_number_type(f"number {words}", float, list(bounds))


def _check_path(_: type, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or any(ord(letter) < 32 for letter in value):
        raise ValueError("no path")
    if os.path.expanduser(value).startswith("~"):
        raise ValueError("no such user")
    sizes = [len(os.fsencode(name)) for name in value.split("/")]
    if max(sizes) > _LONGEST_NAME_BYTES or sum(sizes) + len(sizes) > _LONGEST_PATH_BYTES:
        raise ValueError("too long")


if TYPE_CHECKING:
    Count: TypeAlias = int
    CountOrZero: TypeAlias = int
    Width: TypeAlias = int
    Depth: TypeAlias = int
    Processes: TypeAlias = int
    Threads: TypeAlias = int
    Resolution: TypeAlias = int
    Samples: TypeAlias = int
    Steps: TypeAlias = int
    FramesPerSecond: TypeAlias = int
    Timesteps: TypeAlias = int
    Shift: TypeAlias = int
    Iterations: TypeAlias = int
    Seed: TypeAlias = int
    LongSeed: TypeAlias = int
    Kimg: TypeAlias = float
    Hours: TypeAlias = float
    HangTime: TypeAlias = float
    Seconds: TypeAlias = float
    KimgOrZero: TypeAlias = float
    Weight: TypeAlias = float
    Rate: TypeAlias = float
    Ratio: TypeAlias = float
    Fraction: TypeAlias = float
    Epsilon: TypeAlias = float
    Clamp: TypeAlias = float
    Beta: TypeAlias = float
    Share: TypeAlias = float
    Target: TypeAlias = float
    Truncation: TypeAlias = float
    LabelNumber: TypeAlias = float
    LogSigma: TypeAlias = float
    LogSigmaSpread: TypeAlias = float
    Port: TypeAlias = int
    FilePath: TypeAlias = str
else:
    Count = _whole(1)
    CountOrZero = _whole(0)
    Width = _whole(1, 10**9)
    Depth = _whole(1, 100)
    Processes = _whole(0, 64)
    Threads = _whole(1, 1024)
    Resolution = _whole(4, 2**14)
    Samples = _whole(2, 10**6)
    Steps = _whole(1, 10**4)
    FramesPerSecond = _whole(1, 1000)
    Timesteps = _whole(1, 10**6)
    Shift = _whole(-1000, 1000)
    Iterations = _whole(0, 10**4)
    Port = _whole(0, 2**16 - 1)
    Seed = _whole(0, 2**32 - 1)
    LongSeed = _whole(0, 2**64 - 1)
    Kimg = _number("from 0.001 to 1e9", (">=", 0.001), ("<=", 1e9))
    Hours = _number("from 1e-6 to 1e6", (">=", 1e-6), ("<=", 1e6))
    HangTime = _number("from 5 to 1e6", (">=", 5), ("<=", 1e6))
    Seconds = _number("from 0 to 1e9", (">=", 0), ("<=", 1e9))
    KimgOrZero = _number("from 0 to 1e9", (">=", 0), ("<=", 1e9))
    Weight = _number("from 0 to 1e6", (">=", 0), ("<=", 1e6))
    Rate = _number("above 0 and at most 1", (">", 0), ("<=", 1))
    Ratio = _number("from 1e-6 to 1e6", (">=", 1e-6), ("<=", 1e6))
    Fraction = ClosedUnitInterval
    Epsilon = _number("from 1e-30 to 1", (">=", 1e-30), ("<=", 1))
    Clamp = _number("from 0.001 to 65504", (">=", 0.001), ("<=", 65504))
    Beta = _number("of at least 0 and below 1", (">=", 0), ("<", 1))
    Share = _number("from 0.001 to 1", (">=", 0.001), ("<=", 1))
    Target = _number("from -1 to 1", (">=", -1), ("<=", 1))
    Truncation = _number("from -100 to 100", (">=", -100), ("<=", 100))
    LabelNumber = _number("from -1e30 to 1e30", (">=", -1e30), ("<=", 1e30))
    LogSigma = _number("from -10 to 10", (">=", -10), ("<=", 10))
    LogSigmaSpread = _number("from 0.01 to 4", (">=", 0.01), ("<=", 4))
    FilePath = extend_base_type("path", str, _check_path)

_IN_SCHEDULES = {Rate: Fraction}
"""What the values of a schedule may be where a lone number may not: learning rates rise from 0 and fall to it."""

SCHEDULE_EXAMPLE = "{kind: linear, kimg: [0, 1000], values: [0.002, 0.0002]}"


def words_of(hint: Any) -> str:
    """What a value of a type is, for messages: `whole number from 1 to 100, or null`."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(words_of(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        form = "[a, b, ...]" if Ellipsis in get_args(hint) else "[a, b]"
        return f"a list {form}, each {words_of(get_args(hint)[0])}"
    if words := get_args(hint):
        return f"one of {', '.join(map(str, words))}" if len(words) > 1 else str(words[0])
    plain = {
        bool: "true or false",
        str: "text",
        ClosedUnitInterval: "a number from 0 to 1",
        type(None): "null",
        Schedule: f"a schedule such as {SCHEDULE_EXAMPLE}",
        FilePath: "a path without line breaks, of UTF-8 names up to 255 bytes, where ~USER is a user of this machine",
    }
    return plain.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def in_range(settings: Settings, prefix: str = "") -> Settings:
    """The same settings as plain values, paths with ~ expanded.

    Raises:
        UserError: A number, at any time of its schedule, is out of the range that its type states; names the setting.
    """
    values = {
        field.name: _in_range(getattr(settings, field.name), field.type, f"{prefix}{field.name}")
        for field in dataclasses.fields(settings)
    }
    return dataclasses.replace(settings, **values)


def _in_range(value: Any, hint: Any, name: str) -> Any:
    if isinstance(value, Schedule):
        return _schedule_in_range(value, hint, name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return in_range(value, f"{name}.")
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    if get_origin(hint) in (Union, types.UnionType):
        if any(get_origin(part) is Literal and value in get_args(part) for part in parts):
            return value
        is_list = isinstance(value, tuple | list)
        checked = [part for part in parts if hasattr(part, "_type") or get_origin(part) is tuple]
        hint = next((part for part in checked if (get_origin(part) is tuple) == is_list), next(iter(checked), None))
        return value if value is None or hint is None else _in_range(value, hint, name)
    if get_origin(hint) is tuple:
        if get_origin(parts[0]) is Literal and len(set(value)) < len(value):
            raise UserError(f"{name} is {', '.join(value)}, expected each once")
        hints = parts * len(value) if Ellipsis in get_args(hint) else parts
        return tuple(_in_range(part, of, name) for part, of in zip(value, hints, strict=True))
    if not hasattr(hint, "_type"):
        return value
    try:
        plain = hint._type(hint(value))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name} is {value!r}, expected {words_of(hint)}") from error
    return os.path.expanduser(plain) if hint is FilePath else plain


def _schedule_in_range(schedule: Schedule, hint: Any, name: str) -> Schedule:
    kimg, values = schedule.kimg, schedule.values
    if len(kimg) != len(values) or not kimg:
        raise UserError(f"{name} is a schedule of {len(kimg)} kimg and {len(values)} values, expected as many")
    if not all(map(math.isfinite, kimg)) or list(kimg) != sorted(set(kimg)) or kimg[0] < 0:
        raise UserError(f"{name} is a schedule with kimg {list(kimg)}, expected rising numbers of at least 0")
    wider = next((_IN_SCHEDULES[part] for part in get_args(hint) if part in _IN_SCHEDULES), None)
    values = tuple(_in_range(value, wider or hint, name) for value in values)
    if wider and not any(values):
        raise UserError(f"{name} is a schedule of zeros, expected a value above 0")
    return dataclasses.replace(schedule, values=values)
