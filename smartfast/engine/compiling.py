"""torch.compile for whole phases: one graph each, said aloud, with a cache that outlives the run."""

import os
import time
import types
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch._inductor.runtime import cache_dir_utils

from smartfast.core.caches import default_cache_dir

Mode = bool | Literal["max-autotune", "background"]
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class Compiler:
    """Compiles functions where `mode` asks for it, and accounts for the time.

    Args:
        mode: perf.compile; `background` compiles as True does, when is for the caller to decide.
        say: Receives a line before and after each compilation.

    Attributes:
        total_sec: Spent on compiling, first runs included.
    """

    def __init__(self, mode: Mode, say: Callable[[str], None] = print) -> None:
        # CUDA graphs are smartfast.engine.graphs' work: a captured step is more than its compiled part.
        self.mode = "max-autotune-no-cudagraphs" if mode == "max-autotune" else None
        self.say = say
        self.works = bool(mode) and _prepare()
        self.total_sec = 0.0

    def __call__(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` itself, or compiled as one graph, backward and second-order terms included, at its first call.

        function: Changes nothing but through what it returns, and buffers of modules, such as batch norm's. Where it
            cannot be compiled it runs as it is, with a warning that says why.
        """
        if not self.works:
            return function
        # A phase's shapes never change; of another phase of the same process the compiler may know that they did.
        chosen = compiled = torch.compile(_named(function, name), fullgraph=True, mode=self.mode, dynamic=False)
        is_first = True

        def call(*arguments: Any) -> Any:
            nonlocal is_first, chosen
            if not is_first:
                return chosen(*arguments)
            is_first = False
            start_sec = time.perf_counter()
            self.say(f"compiling {name} ...")
            try:
                result = compiled(*arguments)
                self.say(f"compiled {name} in {time.perf_counter() - start_sec:.1f} s")
            except (TorchDynamoException, InductorError) as error:
                warnings.warn(
                    f"perf.compile: {name} runs eagerly, it cannot be compiled: {_line(error)} "
                    f"(if a compilation was killed before, delete {compile_cache_dir()})",
                    stacklevel=2,
                )
                chosen = function
                result = function(*arguments)
            self.total_sec += time.perf_counter() - start_sec
            return result

        return call


def compile_cache_dir() -> str:
    """Where compiled code is kept for later runs, in this process: $TORCHINDUCTOR_CACHE_DIR or ours."""
    # The compiler's own default is a folder for temporary files, which machines empty and containers forget. To import
    # a part of it is enough for that to stand in the variable.
    if os.environ.get(_CACHE_VARIABLE) in (None, os.path.abspath(cache_dir_utils.default_cache_dir())):
        os.environ[_CACHE_VARIABLE] = str(default_cache_dir() / "compiled")
    return os.environ[_CACHE_VARIABLE]


def _prepare() -> bool:
    """Set up torch.compile for this process; False, with a warning, where it cannot trace autograd.grad."""
    compile_cache_dir()
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        warnings.warn(
            f"perf.compile: torch {torch.__version__} cannot trace torch.autograd.grad; phases run eagerly",
            stacklevel=3,
        )
        return False
    torch._dynamo.config.trace_autograd_ops = True
    from smartfast.engine import inductor  # the code generator takes a third of a second to import

    inductor.mend()
    return True


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with a code object of its own: what is compiled for one code object shares a limit of variants."""
    if not isinstance(function, types.FunctionType):
        return function
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
