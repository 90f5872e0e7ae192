"""Faults of Triton's interpreter, put right.

Triton 3.9's takes the type of a condition that is one number away beside a block; every version cuts the last bits of
float32 off for bfloat16, where a GPU rounds.
"""

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_splat = InterpreterBuilder.create_splat
_convert = interpreter._convert_float


def mend() -> None:
    """Keep masks boolean, which the interpreter demands of them, and round. Further calls change nothing."""
    InterpreterBuilder.create_splat = _splat_as_stored
    interpreter._convert_float = _converted


def _splat_as_stored(builder: Any, block: Any, value: Any) -> Any:
    """The handle of a comparison says the type of what was compared; what it stores is right."""
    result = _splat(builder, block, value)
    return TensorHandle(result.data.astype(value.data.dtype), result.dtype)


def _converted(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
    if (source.name, target.name) != ("fp32", "bf16"):
        return _convert(values, source, target, mode)
    bits = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).view(torch.int16)
    return bits.numpy().view(np.uint16).reshape(values.shape)
