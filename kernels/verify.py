"""Verify the ops' Triton implementations on the device at hand: no test of ours can speak for its compiler and driver.

    python -m smartfast.kernels.verify CALLS DEVICE

is the child process that `smartfast.run.verification` starts, and kills: it checks the calls in a file of `write_calls`
one after the other, and prints a line of JSON before each, {"begins": index}, and one behind it, {"ends": index,
"problem": null or text, "is_passing": whether memory or a compiler was missing, of which nothing follows for another
time}. It ends after the first problem: an error of the device itself stays with a process.
"""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .budget import OverBudget, check_op, guarded
from .calls import Call
from .selection import implementation

ORDERS = {
    "denoise_distance": 1,
    "denoise_distance_and_gradient": 0,
    "grouped_linear": 1,
    "noise_forward": 1,
    "philox_normal": 0,
    "philox_uniform": 0,
}
"""The highest derivative that training takes of an op; of the others it is the second."""
ULPS = {"denoise_distance": 64, "denoise_distance_and_gradient": 64, "noise_forward": 64, "philox_normal": 64}
"""Units in the last place beyond the budget, 16 for the others: sine and logarithm of a GPU are approximate."""
RESULTS = {"denoise_distance_and_gradient": 2}
"""How many an op has, if not one."""
_PASSING = (torch.OutOfMemoryError, MemoryError, subprocess.CalledProcessError)
SEEDS = (1, 2)
"""Of the numbers that a call is checked on: what an implementation kept of the first is wrong for the second."""


def check_call(call: Call, device: torch.device) -> None:
    """Hold an op as Triton to its budget against the op as aten, at the shapes, strides and dtypes of a call.

    Raises:
        OverBudget: It errs more than it may, writes beside its results or changes its arguments.
        Exception: Whatever the implementation raises.
    """
    for seed in SEEDS:
        filled = call.filled(device, seed)
        for place in range(RESULTS.get(call.op, 1)):
            _check(Flat.of(filled), place)


class Flat(NamedTuple):
    """A call with data as a list of values; those at `inputs` are differentiated for, or all if `order` is 0."""

    op: str
    values: list[Any]
    spec: TreeSpec
    inputs: list[int]
    order: int

    @classmethod
    def of(cls, call: Call) -> "Flat":
        values, spec = tree_flatten(call.arguments)
        floating = [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.is_floating_point()]
        differentiated = [i for i in floating if values[i].requires_grad]
        return cls(call.op, values, spec, differentiated or floating, ORDERS.get(call.op, 2) if differentiated else 0)

    def run(self, name: str, place: int, *inputs: Tensor) -> Tensor:
        """A result of an implementation for other inputs, in float64 if those are."""
        dtype = self.values[self.inputs[0]].dtype if self.inputs else None
        is_wide = dtype is not None and inputs[0].dtype == torch.float64 != dtype
        values = [_widened(value) for value in self.values] if is_wide else list(self.values)
        for index, value in zip(self.inputs, inputs, strict=True):
            values[index] = value
        result = implementation(self.op, name)(**tree_unflatten(values, self.spec))
        return result if isinstance(result, Tensor) else result[place]


def _check(flat: Flat, place: int) -> None:
    kept = [value.detach().clone() if isinstance(value, Tensor) else value for value in flat.values]
    inputs = [flat.values[index] for index in flat.inputs]
    op, formula = (partial(flat.run, name, place) for name in ("triton", "aten"))
    with guarded() as check_guards:
        check_op(op, formula, inputs, order=flat.order, ulps=ULPS.get(flat.op, 16))
        check_guards()
    for value, before in zip(flat.values, kept, strict=True):
        if isinstance(value, Tensor) and not torch.equal(value.detach(), before):
            raise OverBudget("an argument was changed")


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().double() if value.is_floating_point() else value
    return torch.float64 if isinstance(value, torch.dtype) else value


def write_calls(calls: Sequence[Call], file: Path) -> None:
    """What the child process is to check, for `main`."""
    file.write_bytes(pickle.dumps(calls))


def main(arguments: Sequence[str]) -> None:
    """Check calls one after the other; see above."""
    file, device = Path(arguments[0]), torch.device(arguments[1])
    torch.set_default_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    calls: list[Call] = pickle.loads(file.read_bytes())  # our own parent wrote it
    for index, call in enumerate(calls):
        _tell(begins=index)
        problem, is_passing = _found(call, device)
        _tell(ends=index, problem=problem, is_passing=is_passing)
        if problem is not None:
            return


def problem_of(call: Call, device: torch.device) -> str | None:
    """What is wrong with an op as Triton at a call, None if nothing; see `check_call`."""
    return _found(call, device)[0]


def _found(call: Call, device: torch.device) -> tuple[str | None, bool]:
    """A problem, and whether it says nothing of the kernels."""
    try:
        check_call(call, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except OverBudget as error:
        return str(error), False
    except Exception as error:  # whatever an implementation raises is a reason not to take it
        is_passing = isinstance(error, _PASSING) or "C compiler" in str(error)  # Triton's launcher needs one
        return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", is_passing
    return None, False


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
