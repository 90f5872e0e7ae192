"""Which implementation an op uses: the seam between the ops and their Triton and plain-PyTorch (aten) implementations.

An op's public function calls `dispatch`; a module with an implementation calls `register`. The choice is `use(...)` if
one is active, else the environment variable SMARTFAST_KERNELS, else `auto`: Triton on a GPU where the op has it, aten
otherwise. `triton` means the same and raises where a GPU would run an op that has no Triton form. Only dictionary
look-ups happen per call, so that torch.compile(fullgraph=True) traces through and recompiles when the choice changes.
"""

import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

NAMESPACE = "smartfast"
"""Of the project's custom ops in PyTorch's registry."""
CHOICES = ("auto", "triton", "aten")
OLD_NAMES = {"reference": "aten"}
"""Names of choices that configurations written earlier hold, and what they mean."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's kernels run in its interpreter, on CPU tensors: slow, for tests. Fixed when this module is imported."""
TRITON_DEVICES = ("cuda", "meta", "cpu") if INTERPRETED else ("cuda", "meta")
"""Where a choice of triton holds; on the meta device launches are only recorded."""

Function = TypeVar("Function", bound=Callable[..., Any])


class _Public(NamedTuple):
    """A public function, the op whose implementation decides for it, and what tells the route inside that, if any."""

    function: Callable[..., Any]
    op: str
    route: Callable[..., str] | None


_REGISTRY: dict[str, dict[str, Callable[..., Any]]] = {}
_PUBLIC: dict[str, _Public] = {}
_choice = os.environ.get("SMARTFAST_KERNELS", "auto")
_warned: set[str] = set()
_switched_off: dict[str, str] = {}
_faster_as_aten: dict[str, str] = {}


def register(op: str, name: str, implementation: Callable[..., Any]) -> None:
    """Make `implementation` available as the op's "aten" or "triton" implementation."""
    _REGISTRY.setdefault(op, {})[name] = implementation


def public(op: str | None = None, route: Callable[..., str] | None = None) -> Callable[[Function], Function]:
    """Let `explain` know a public function; `op` decides for it (None = the op of its name)."""

    def add(function: Function) -> Function:
        _PUBLIC[function.__name__] = _Public(function, op or function.__name__, route)
        return function

    return add


def implementations() -> dict[str, dict[str, Callable[..., Any]]]:
    """What was registered: by op, then by "aten", "triton" or a further route. Whoever follows the calls changes it."""
    return _REGISTRY


def switch_off(op: str, reason: str) -> None:
    """Have an op run as aten wherever it would run as Triton, in this process; what was compiled before is not changed.

    Raises:
        ValueError: The op has no aten implementation.
    """
    if "aten" not in _REGISTRY.get(op, ()):
        raise ValueError(f"kernels.switch_off: found {op!r}, expected an op with an aten implementation")
    _switched_off[op] = reason


def switched_off() -> dict[str, str]:
    """The reason of each op that was switched off."""
    return dict(_switched_off)


def prefer_aten(op: str, reason: str) -> None:
    """Have an op run as aten wherever the choice is auto, for it was measured to be faster, in this process.

    Raises:
        ValueError: The op has no aten implementation.
    """
    if "aten" not in _REGISTRY.get(op, ()):
        raise ValueError(f"kernels.prefer_aten: found {op!r}, expected an op with an aten implementation")
    _faster_as_aten[op] = reason


def registered_ops() -> list[str]:
    """Names of all public ops, in alphabetical order."""
    return sorted(op for op in _REGISTRY if op in _PUBLIC)


@contextmanager
def use(choice: str) -> Iterator[None]:
    """Use "aten" (also called "reference"), "triton" or "auto" for every op inside the `with` block, in all threads.

    "triton" is for tensors on a GPU: an op with others runs as aten and says so once.

    Raises:
        ValueError: Any other choice. An op without a Triton implementation raises when it is called.
    """
    global _choice
    outer, _choice = _choice, _checked(choice, "use()")
    try:
        yield
    finally:
        _choice = outer


def implementation_of(op: str, device: torch.device | str, impl: str | None = None) -> tuple[str, str]:
    """What `op` runs on `device` under the current choice, or under `impl` where a call gives one.

    Returns:
        ("aten" or "triton", the reason in a few words).

    Raises:
        ValueError: The choice is not known, or is "triton" and the op has no Triton implementation.
        KeyError: No such op.
    """
    choice = _checked(_choice, "SMARTFAST_KERNELS") if impl is None else _checked(impl, "impl")
    available, device_type = _REGISTRY[op], torch.device(device).type
    if choice == "aten":
        return "aten", "asked for"
    if op in _switched_off and impl is None:
        return "aten", f"switched off, {_switched_off[op]}"
    if choice == "triton" and impl is None and device_type not in TRITON_DEVICES:
        return "aten", f"Triton needs a GPU, the tensors are on {device_type}"
    if choice == "triton":
        if "triton" not in available:
            raise ValueError(f"kernels: found 'triton', but {_why_no_triton(op)}; expected auto or aten")
        return "triton", "asked for"
    if device_type != "cuda":
        return "aten", f"auto takes plain PyTorch on {device_type}"
    if "triton" not in available:
        return "aten", _why_no_triton(op)
    if op in _faster_as_aten:
        return "aten", f"auto takes plain PyTorch, {_faster_as_aten[op]}"
    return "triton", "auto takes Triton on cuda"


def choose(op: str, device: torch.device, impl: str | None = None) -> str:
    """The name that `implementation_of` gives. One that takes the place of Triton is told once, with the reason.

    Compiled code cannot warn; `implementation_of` always tells.
    """
    name, reason = implementation_of(op, device, impl)
    is_fallback = name == "aten" and reason != "asked for" and not reason.startswith("auto takes")
    if is_fallback and not torch.compiler.is_compiling():
        _warn_once(f"{op} runs as plain PyTorch on {device.type}: {reason}")
    return name


def implementation(op: str, name: str) -> Callable[..., Any]:
    """The function that was registered for an op; that of aten for one that is switched off, or slower as a part."""
    is_left = op in _switched_off or (_choice == "auto" and name == "triton" and op in _faster_as_aten)
    return _REGISTRY[op]["aten" if is_left else name]


def dispatch(op: str, device: torch.device, *args: Any, impl: str | None = None) -> Any:
    """Call the chosen implementation of `op`.

    impl: "triton", "aten" or "auto" for this call; None = the current choice. A "triton" that a call asks for itself
    is strict: its tensors must be where Triton runs.
    """
    return without_autocast(_REGISTRY[op][choose(op, device, impl)], device, *args)


def without_autocast(function: Callable[..., Any], device: torch.device, *args: Any) -> Any:
    """Call with autocast off: ops choose their precision themselves."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            return function(*args)
    return function(*args)


def explain(op: str, *args: Any, **kwargs: Any) -> str:
    """Which implementation a call takes, which route inside it, and why; runs nothing.

    Args:
        op: Name of a public function.
        *args, **kwargs: Its arguments, of which shapes, dtypes and devices are read.

    Returns:
        A line for the implementation and, where that has routes, one for the route.

    Raises:
        ValueError: No such function, or `impl` asks for an implementation that its op does not have.
        TypeError: Arguments that the function does not take.
    """
    if op not in _PUBLIC:
        raise ValueError(f"kernels.explain: found {op!r}, expected one of {', '.join(sorted(_PUBLIC))}")
    bound = inspect.signature(_PUBLIC[op].function).bind(*args, **kwargs)
    bound.apply_defaults()
    device = next(value.device for value in bound.arguments.values() if isinstance(value, Tensor))
    name, reason = implementation_of(_PUBLIC[op].op, device, bound.arguments["impl"])
    line = f"{op} on {device.type}: {name} ({reason})"
    route = _PUBLIC[op].route
    return line if name != "triton" or route is None else f"{line}\n{route(**bound.arguments)}"


def _why_no_triton(op: str) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return f"{op} has no Triton implementation"


def _checked(choice: str, source: str) -> str:
    choice = OLD_NAMES.get(choice, choice)
    if choice not in CHOICES:
        raise ValueError(f"{source}: found {choice!r}, expected one of {', '.join(CHOICES)}")
    return choice


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)
