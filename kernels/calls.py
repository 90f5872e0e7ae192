"""Calls of the ops' implementations: noted while a training computes, kept without data, filled with random numbers."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map_only

from .selection import implementations

_TURN = ((0.8, -0.6, 1.5), (0.6, 0.8, -2.5))


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an op's implementation.

    arguments: By name. Tensors, which may be inside named tuples, are on the meta device until they are `filled`;
    they require grad where they are differentiated for.
    """

    op: str
    arguments: dict[str, Any] = field(repr=False)

    @property
    def content(self) -> str:
        """Op, shapes, strides, dtypes and options: what makes two calls the same."""
        described = tree_map_only(Tensor, _described, self.arguments)
        return f"{self.op}({', '.join(f'{name}={value}' for name, value in described.items())})"

    def filled(self, device: torch.device, seed: int) -> "Call":
        """The same call with random numbers, on `device`."""
        rng = torch.Generator(device).manual_seed(seed)
        rows = next(t.shape[0] for t in tree_leaves(self.arguments) if isinstance(t, Tensor))

        def fill(name: str, like: Tensor) -> Tensor:
            if name == "offsets":  # of experts, some of which have no row
                inner = torch.randint(0, rows + 1, (like.numel() - 2,), generator=rng, device=device)
                return torch.cat([inner.new_zeros(1), inner.sort().values, inner.new_full((1,), rows)])
            if not like.is_floating_point():
                return torch.randint(0, 2**31, like.shape, generator=rng, device=device).to(like.dtype)
            if name == "lookup":
                return torch.tensor(_TURN, device=device, dtype=like.dtype).expand(like.shape).contiguous()
            return _normal(like, rng, device).requires_grad_(like.requires_grad)

        arguments = {name: tree_map_only(Tensor, partial(fill, name), value) for name, value in self.arguments.items()}
        if self.op == "conv_gemm":
            arguments["epilogue"] = _invertible(arguments["epilogue"])
        if "overwrite" in arguments:  # the formula is to get the same numbers
            arguments["overwrite"] = False
        return Call(self.op, arguments)


@contextmanager
def recorded_calls() -> Iterator[dict[str, Call]]:
    """Note what the ops are asked to do within the block while they run as aten; by content, each once.

    Works under a FakeTensorMode, so that a training of any size is noted without computing anything.
    """
    calls: dict[str, Call] = {}

    def noting(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
        names = _argument_names(function)

        @wraps(function)
        def noted(*args: Any) -> Any:
            with unset_fake_temporarily():
                call = Call(op, tree_map_only(Tensor, _without_data, dict(zip(names, args, strict=True))))
            calls.setdefault(call.content, call)
            return function(*args)

        return noted

    with ExitStack() as stack:
        for op, available in implementations().items():
            if {"aten", "triton"} <= available.keys():
                stack.enter_context(patch.dict(available, aten=noting(op, available["aten"])))
        yield calls


def _argument_names(function: Callable[..., Any]) -> list[str]:
    """Of an implementation, which may be a custom op; it is called with all of them, by position."""
    if isinstance(function, CustomOpDef):
        return [argument.name for argument in function._opoverload._schema.arguments]
    return list(inspect.signature(function).parameters)


def _without_data(x: Tensor) -> Tensor:
    empty = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return empty.requires_grad_(x.requires_grad and torch.is_grad_enabled())


def _described(x: Tensor) -> str:
    gradient = ", differentiated" if x.requires_grad else ""
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} of strides {list(x.stride())}{gradient}"


def _invertible(epilogue: Any) -> Any:
    """With a demodulation that is not near 0, as one over a norm never is: conv_gemm divides by it."""
    d = epilogue.demodulation
    if d is None:
        return epilogue
    return epilogue._replace(demodulation=(d.detach().abs() + 0.5).requires_grad_(d.requires_grad))


def _normal(like: Tensor, rng: torch.Generator, device: torch.device) -> Tensor:
    """Unit normal numbers in the memory order of `like`, its repeated dimensions repeated."""
    shape = [size if stride else min(size, 1) for size, stride in zip(like.shape, like.stride(), strict=True)]
    values = torch.randn(shape, generator=rng, device=device, dtype=torch.float32).to(like.dtype)
    if shape != list(like.shape):
        return values.expand(like.shape)
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).copy_(values)
