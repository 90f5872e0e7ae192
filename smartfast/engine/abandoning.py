"""The end of a process that compiles: torch's compiler would first finish everything that it has begun."""

import contextlib
import sys

import psutil

_COMPILERS = {
    "g++",
    "c++",
    "gcc",
    "cc1plus",
    "clang",
    "clang++",
    "icpx",
    "collect2",
    "as",
    "ld",
    "ptxas",
    "nvcc",
    "cicc",
}


def abandon_compilations() -> None:
    """Drop what waits to be compiled for this process, and end the compilers that run for it.

    Nothing is lost but their time: the compiler's cache takes complete files only.
    """
    compiler = sys.modules.get("torch._inductor.async_compile")
    if compiler is None:  # nothing was compiled
        return
    pool = compiler.AsyncCompile.pool
    if pool.cache_info().currsize:
        pool().shutdown(wait=False, cancel_futures=True)
        pool.cache_clear()  # what compiles after this gets another one
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if child.name() in _COMPILERS:
                child.kill()
