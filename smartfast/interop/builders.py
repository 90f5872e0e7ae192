"""What stands in for the functions and classes that a file names: each takes data, checks it and gives data.

Every builder takes the arguments of the call and the budget, and raises ValueError where they have another form than
the writers of weight files give them.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from smartfast.interop.budget import Budget
from smartfast.interop.records import Record

NUMBERS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())
MAX_SIZE = 2**40
MAX_DIMENSIONS = 16
MAX_KEY = 2**32
"""Larger numbers as keys could be chosen to collide in a dictionary."""

Builder = Callable[[tuple[Any, ...], Budget], object]


@dataclass(frozen=True)
class Global:
    """A function or class by its name. `call` builds what a call gives, `new` an object that has no state yet."""

    name: str
    call: Builder | None = None
    new: Callable[[], object] | None = None


@dataclass(frozen=True)
class StorageType:
    """torch.FloatStorage and the like."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """Memory behind tensors; `values` has one dimension."""

    values: torch.Tensor


@dataclass(frozen=True)
class NumpyType:
    """numpy.dtype of a number, such as f8."""

    name: str


def call(function: object, arguments: object, budget: Budget) -> object:
    """Pickle's REDUCE."""
    if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
        raise ValueError(f"{_named(function)} is called")
    return function.call(arguments, budget)


def instance(cls: object, arguments: object) -> object:
    """Pickle's NEWOBJ."""
    if not isinstance(cls, Global) or cls.new is None or not isinstance(arguments, tuple) or arguments:
        raise ValueError(f"{_named(cls)} is made an object")
    return cls.new()


def set_state(target: object, state: object, budget: Budget) -> None:
    """Pickle's BUILD."""
    match target, state:
        case Record(), dict() if all(isinstance(name, str) for name in state):
            budget.step(len(state))
            target.state.update(state)
        case dict(), dict() if _is_no_news(target, state, budget):
            pass
        case NumpyType(), (int(version), "<" | "|", None, None, None, int(), int(), int()) if version == 3:
            pass
        case np.ndarray(), (int(version), tuple(shape), NumpyType(name=name), bool(fortran), bytes(raw)) if (
            version == 1
        ):
            budget.take(size_bytes(sizes(shape), np.dtype(name).itemsize))
            if math.prod(shape) * np.dtype(name).itemsize != len(raw):
                raise ValueError(f"a numpy array of {math.prod(shape)} numbers has {len(raw)} bytes")
            contents: Any = (1, shape, np.dtype(name), fortran, raw)
            target.__setstate__(contents)  # in place: others may hold it already
        case _:
            raise ValueError(f"{_named(target)} gets a state of an unknown form")


def _is_no_news(target: dict[Any, Any], state: dict[Any, Any], budget: Budget) -> bool:
    """Whether a dictionary does without a state: versions of modules, or EasyDict's attributes, which its items are."""
    budget.step(len(state))
    return list(state) == ["_metadata"] or state.keys() <= target.keys()


def checked_key(key: object) -> object:
    """`key` of a dictionary or entry of a set; raises ValueError unless it is a text or a small number."""
    if isinstance(key, str) or (isinstance(key, int) and abs(key) < MAX_KEY):
        return key
    raise ValueError(f"{_named(key)} is the key of a dictionary or the entry of a set")


def sizes(values: tuple[Any, ...]) -> tuple[int, ...]:
    """`values`, which raise ValueError unless they can be the sizes or strides of a tensor."""
    if len(values) > MAX_DIMENSIONS or not all(type(value) is int and 0 <= value < MAX_SIZE for value in values):
        raise ValueError("a size, stride or offset of a tensor is out of range")
    return values


def size_bytes(shape: tuple[int, ...], item_bytes: int) -> int:
    """What a tensor of `shape` takes, where sizes of 0 count as 1."""
    return math.prod(max(size, 1) for size in shape) * item_bytes


def tensor(arguments: tuple[Any, ...], budget: Budget) -> object:
    """torch._utils._rebuild_tensor_v2 and its predecessor: a view of the storage, which it cannot leave."""
    match arguments:
        case (Storage(values=values), offset, tuple(shape), tuple(stride), *extras) if len(shape) == len(stride):
            _expect_none(extras)
            budget.take(size_bytes(sizes(shape), values.itemsize))
            (last,) = sizes((offset,))
            last += sum((size - 1) * step for size, step in zip(shape, sizes(stride), strict=True))
            if 0 in shape:
                return values.new_empty(shape)
            if last >= values.numel():
                raise ValueError("a tensor reaches beyond its storage")
            return values.as_strided(shape, stride, offset)
    raise ValueError("a tensor is described in an unknown form")


def _expect_none(extras: list[Any]) -> None:
    """Whether a tensor requires gradients may be said; it has no hooks and no metadata."""
    match extras:
        case [] | [bool(), {}] | [bool(), {}, None] if not any(extras[1:]):
            return
    raise ValueError("a tensor has hooks or other extras")


def parameter(arguments: tuple[Any, ...], budget: Budget) -> object:
    """torch._utils._rebuild_parameter, with or without the state of the parameter, which is dropped."""
    match arguments:
        case (torch.Tensor() as data, bool(), dict(hooks), *_) if not hooks:
            return data
    raise ValueError("a parameter is described in an unknown form")


def persistent_object(arguments: tuple[Any, ...], budget: Budget) -> object:
    """torch_utils.persistence: the state of an object and the source text of its class, which is hashed and dropped."""
    match arguments:
        case (
            {
                "type": "class",
                "version": int(version),
                "module_src": str(source),
                "class_name": str(name),
                "state": state,
            },
        ) if version == 6:
            record = Record(name, source_sha256=_sha256(source))
            if state is not None:
                set_state(record, state, budget)
            return record
    raise ValueError("a persistent object is no class of version 6")


@lru_cache(maxsize=1024)
def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def numpy_type(arguments: tuple[Any, ...], budget: Budget) -> object:
    match arguments:
        case (str(name), *_) if name in NUMBERS:
            return NumpyType(name)
    raise ValueError("a numpy type is no number")


def numpy_scalar(arguments: tuple[Any, ...], budget: Budget) -> object:
    """A number of Python."""
    match arguments:
        case (NumpyType(name=name), bytes(raw)) if len(raw) == np.dtype(name).itemsize:
            return np.frombuffer(raw, name).item()
    raise ValueError("a numpy scalar is described in an unknown form")


def numpy_array(arguments: tuple[Any, ...], budget: Budget) -> object:
    """An array that gets its contents as its state."""
    return np.empty(0, np.uint8)


def empty_dict(arguments: tuple[Any, ...], budget: Budget) -> object:
    if arguments:
        raise ValueError("a dictionary is made of arguments")
    return {}


def set_of(arguments: tuple[Any, ...], budget: Budget) -> object:
    match arguments:
        case () | (list(),):
            budget.step(sum(map(len, arguments)))
            return {checked_key(entry) for entries in arguments for entry in entries}
    raise ValueError("a set is described in an unknown form")


def same_tuple(arguments: tuple[Any, ...], budget: Budget) -> object:
    """torch.Size."""
    match arguments:
        case (tuple(sizes),):
            return sizes
    raise ValueError("a size is described in an unknown form")


def latin_bytes(arguments: tuple[Any, ...], budget: Budget) -> object:
    """_codecs.encode, as protocol 2 writes bytes."""
    match arguments:
        case (str(text), "latin1"):
            budget.take(len(text))
            return text.encode("latin1")
    raise ValueError("bytes are described in an unknown form")


def device_name(arguments: tuple[Any, ...], budget: Budget) -> object:
    """torch.device, as "cuda:0"."""
    match arguments:
        case (str(kind),):
            return kind
        case (str(kind), int(index)):
            return f"{kind}:{index}"
    raise ValueError("a device is described in an unknown form")


def _named(value: object) -> str:
    return value.name if isinstance(value, Global) else f"a {type(value).__name__}"
