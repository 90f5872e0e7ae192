"""What stands for a global takes anything and gives data or a ValueError."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from smartfast.interop.allowed import PICKLES, TORCH_FILES
from smartfast.interop.budget import Budget
from smartfast.interop.builders import Global, NumpyType, Storage, StorageType, call, instance, set_state
from smartfast.interop.records import Record

THINGS = {
    **{ascii(value): value for value in (None, True, 0, 1, 3, 6, -1, 2**70, 0.5, float("nan"))},
    **{ascii(value): value for value in ("", "f8", "latin1", b"", b"1", (), (1,), (2, 3), [], [1], [[]])},
    **{ascii(value): value for value in ({}, {"_metadata": {}}, {"a": 1}, {1: 2}, {1})},
    **{"tensor": torch.ones(2), "empty tensor": torch.ones(0), "dtype": torch.float32, "array": np.ones(2)},
    **{"numpy type": NumpyType("f8"), "storage": Storage(torch.ones(2)), "storage type": StorageType(torch.float32)},
    **{"global": Global("numpy.ndarray"), "record": Record("Layer"), "of tensors": (torch.ones(2),) * 3},
}
META = {"type": "class", "version": 6, "module_src": "", "class_name": "A", "state": {}}
FORMS = [
    (Storage(torch.ones(2)), 0, (1,), (1,), False, {}, None),
    (torch.ones(2), False, {}),
    (META,),
    (NumpyType("f8"), b"12345678"),
    ("f8", False, True),
    (3, "<", None, None, None, -1, -1, 0),
    (1, (1,), NumpyType("f8"), False, b"12345678"),
    ("a", "latin1"),
    ("cuda", 0),
    ([1],),
    ((1,),),
]
"""Arguments and states as they should be."""


def nearly() -> Iterator[object]:
    """Every form, cut short or with another thing in any one place; and every thing alone."""
    for form in FORMS:
        yield from (form[:length] for length in range(len(form) + 1))
        for index in range(len(form)):
            yield from ((*form[:index], thing, *form[index + 1 :]) for thing in THINGS.values())
    for key in META:
        yield from ((META | {key: thing},) for thing in THINGS.values())
    yield from THINGS.values()


CALLED = {found.name: found for found in {**PICKLES, **TORCH_FILES}.values() if isinstance(found, Global)}


@pytest.mark.parametrize("name", CALLED)
def test_calls(name: str) -> None:
    """Wrong arguments are a ValueError and nothing else; some are refused."""
    refused = 0
    for arguments in nearly():
        try:
            call(CALLED[name], arguments, Budget(1000))
        except ValueError:
            refused += 1
        try:
            instance(CALLED[name], arguments)
        except ValueError:
            refused += 1
    assert refused


@pytest.mark.parametrize("name", THINGS)
def test_states(name: str) -> None:
    """Wrong states are a ValueError and nothing else; some are refused."""
    refused = 0
    for state in nearly():
        try:
            set_state(copy.deepcopy(THINGS[name]), state, Budget(1000))
        except ValueError:
            refused += 1
    assert refused


@pytest.mark.parametrize("name", THINGS)
def test_only_globals_are_called(name: str) -> None:
    with pytest.raises(ValueError, match="is called"):
        call(THINGS[name], (), Budget(1000))
    with pytest.raises(ValueError, match="is made an object"):
        instance(THINGS[name], ())
