"""A fault of Triton 3.9's interpreter, put right: a condition that is one number loses its type beside a block."""

from typing import Any

from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_splat = InterpreterBuilder.create_splat


def mend() -> None:
    """Keep masks boolean, which the interpreter demands of them. Further calls change nothing."""
    InterpreterBuilder.create_splat = _splat_as_stored


def _splat_as_stored(builder: Any, block: Any, value: Any) -> Any:
    """The handle of a comparison says the type of what was compared; what it stores is right."""
    result = _splat(builder, block, value)
    return TensorHandle(result.data.astype(value.data.dtype), result.dtype)
