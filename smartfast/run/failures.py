"""What the machine does to a run, not the program: one line each, with what to change.

Everything else keeps its traceback, which is what a mistake in the program needs.
"""

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from smartfast.config.schema import Config
from smartfast.core.interruption import Interrupted, Interruption
from smartfast.errors import UserError

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
_GPU_MEMORY = re.compile(r"CUDA error: out of memory|CU(DNN|BLAS)_STATUS_ALLOC_FAILED|CUDA out of memory")
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory")
_LOADER = re.compile(r"DataLoader worker \(pid|unable to (open|allocate|mmap).*shared memory")
_PEER = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|remote process exited|NCCL|[Gg]loo|Socket Timeout|Timed out waiting"
)


@contextmanager
def one_line_failures(config: Config, interruption: Interruption) -> Iterator[None]:
    """Turn what `explain` knows, raised inside the `with` block, into a UserError of that line.

    Another process that is gone while this one was asked to end as well has ended for the same reason: Interrupted.
    """
    try:
        with _quiet_writers(config):
            yield
    except Exception as error:
        if interruption.number and _is_lost_peer(error, str(error)):
            raise Interrupted(interruption.name) from error
        line = None if isinstance(error, UserError) else explain(error, config)
        if line is None:
            raise
        saved = f"what {config.run.dir} has saved is intact"
        raise UserError(f"{line}; {saved}, the same command goes on from there") from error


@contextmanager
def _quiet_writers(config: Config) -> Iterator[None]:
    """A tracker's own thread prints the traceback of what it cannot write, and training hears of it all the same."""
    usual = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and _is_of_run(failed.exc_value, config)):
            usual(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual


def explain(error: Exception, config: Config) -> str | None:
    """One line for an exception that the machine caused: what happened and what to change; None for any other."""
    said = " ".join(str(error).split())
    reason = said[:160] or type(error).__name__
    optim, data, perf = config.optim, config.data, config.perf
    part = f"optim.batch_gpu ({optim.batch_gpu or 'unset: all at once'})"
    part += ", perf.compile true (background has a second training in memory)" * (perf.compile == "background")
    if isinstance(error, torch.OutOfMemoryError) or _GPU_MEMORY.search(said):
        return (
            f"out of GPU memory ({reason}): try a smaller {part}, perf.precision bf16 or fp16 (now {perf.precision}), "
            f"data.cache stream (now {data.cache}) or a smaller metrics.batch ({config.metrics.batch})"
        )
    # Before the memory of this process: a loader's death often is a lack of memory, but of its own.
    if isinstance(error, RuntimeError) and _LOADER.search(said):
        return (
            f"a loader process died ({reason}), usually for want of memory or shared memory: try fewer data.workers "
            f"({data.workers}; 0 = none), or data.cache device where the images fit"
        )
    if isinstance(error, MemoryError) or _HOST_MEMORY.search(said) or getattr(error, "errno", None) == errno.ENOMEM:
        return (
            f"out of main memory ({reason}): try a smaller {part}, data.cache stream (now {data.cache}) "
            f"or fewer data.workers ({data.workers})"
        )
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return (
            f"{_where(error, config)} could not be written ({error.strerror}), expected a folder with room: free some, "
            f"or keep fewer checkpoints with run.keep_checkpoints ({config.run.keep_checkpoints})"
        )
    if isinstance(error, OSError) and _is_of_run(error, config):
        return f"{_where(error, config)} cannot be read or written ({error.strerror}), expected what a run writes there"
    if _is_lost_peer(error, said):
        return f"another process of this run died or cannot be reached ({reason}): its own last lines say why"
    return None


def _is_of_run(error: OSError, config: Config) -> bool:
    """Whether it is about a file of the run folder."""
    return Path(config.run.dir) in Path(_where(error, config)).parents


def _where(error: OSError, config: Config) -> str:
    """The file of a failed operation; of a renaming its target."""
    return os.fsdecode(error.filename2 or error.filename or f"run.dir {config.run.dir}")


def _is_lost_peer(error: Exception, said: str) -> bool:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    return isinstance(error, dist.DistError | ConnectionError) or (
        isinstance(error, RuntimeError) and _PEER.search(said) is not None
    )
