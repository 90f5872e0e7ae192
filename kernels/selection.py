"""Which implementation an op uses: the seam between the ops and their Triton and plain-PyTorch implementations.

An op's public function calls `dispatch`; a module with an implementation calls `register`. The choice is
`use(...)` if one is active, else the environment variable SMARTFAST_KERNELS, else `auto`: Triton on a GPU
where the op has it, plain PyTorch ("reference") otherwise. Only dictionary look-ups happen per call, so that
torch.compile(fullgraph=True) traces through and recompiles when the choice changes.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from smartfast.errors import UserError

CHOICES = ("auto", "triton", "reference")
_REGISTRY: dict[str, dict[str, Callable[..., Any]]] = {}
_choice = os.environ.get("SMARTFAST_KERNELS", "auto")
_warned: set[str] = set()


def register(op: str, name: str, implementation: Callable[..., Any]) -> None:
    """Make `implementation` available as the op's "reference" or "triton" implementation."""
    _REGISTRY.setdefault(op, {})[name] = implementation


def registered_ops() -> list[str]:
    """Names of all ops, in alphabetical order."""
    return sorted(_REGISTRY)


@contextmanager
def use(choice: str) -> Iterator[None]:
    """Use "reference", "triton" or "auto" for every op inside the `with` block, in all threads.

    Raises:
        UserError: Any other choice. An op without a Triton implementation raises when it is called.
    """
    global _choice
    _check(choice, "use()")
    outer, _choice = _choice, choice
    try:
        yield
    finally:
        _choice = outer


def implementation_of(op: str, device: torch.device | str, impl: str | None = None) -> tuple[str, str]:
    """What `op` runs on `device` under the current choice, or under `impl` where a call gives one.

    Returns:
        ("reference" or "triton", the reason in a few words).

    Raises:
        UserError: The choice is not known, or is "triton" and the op has no Triton implementation.
        KeyError: No such op.
    """
    choice = _choice if impl is None else impl
    _check(choice, "SMARTFAST_KERNELS" if impl is None else "impl")
    available, device_type = _REGISTRY[op], torch.device(device).type
    if choice == "reference":
        return "reference", "asked for"
    if choice == "triton":
        if "triton" not in available:
            raise UserError(f"kernels: found 'triton', but {_why_no_triton(op)}; expected auto or reference")
        return "triton", "asked for"
    if device_type != "cuda":
        return "reference", f"auto takes plain PyTorch on {device_type}"
    if "triton" not in available:
        return "reference", _why_no_triton(op)
    return "triton", "auto takes Triton on cuda"


def dispatch(op: str, device: torch.device, *args: Any, impl: str | None = None) -> Any:
    """Call the chosen implementation of `op`, with autocast off: ops choose their precision themselves.

    impl: "reference", "triton" or "auto" for this call; None = the current choice.

    A GPU that falls back to plain PyTorch is told once; compiled code cannot warn, `implementation_of` always tells.
    """
    name, reason = implementation_of(op, device, impl)
    if name == "reference" and device.type == "cuda" and reason != "asked for" and not torch.compiler.is_compiling():
        _warn_once(f"{op} runs as plain PyTorch on {device.type}: {reason}")
    implementation = _REGISTRY[op][name]
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            return implementation(*args)
    return implementation(*args)


def _why_no_triton(op: str) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return f"{op} has no Triton implementation"


def _check(choice: str, source: str) -> None:
    if choice not in CHOICES:
        raise UserError(f"{source}: found {choice!r}, expected one of {', '.join(CHOICES)}")


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=4)
