"""What a process that trains on a CPU sets up once."""

import ctypes
import os
import sys

import psutil
import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LIMIT_BYTES = 1 << 30


def set_up_cpu(threads: int | None, num_processes: int) -> None:
    """Choose the number of threads and keep freed memory.

    Args:
        threads: Of this process; None = this machine's physical cores shared among the processes.
        num_processes: Processes on this machine.
    """
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads or max(cores // num_processes, 1))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors below 1 GiB for the next ones; elsewhere nothing happens.

    Otherwise it returns them to the system, and every iteration gets new, unmapped pages and thousands of page faults.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Either option ends glibc's own adaptation, so that the second without the first would make it worse.
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LIMIT_BYTES):
        mallopt(_M_TRIM_THRESHOLD, _LIMIT_BYTES)
