"""Main memory: what this machine, or the container that this process is in, has of it and has free."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def main_memory_bytes() -> tuple[int, int]:
    """What there is and what is free now, within a container's limit; what caches of files hold counts as free."""
    memory = psutil.virtual_memory()
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" where there is none
        used = int((_CGROUP / "memory.current").read_text())
        lines = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        parts = {name: int(value) for name, value in lines}
    except (OSError, ValueError):
        return memory.total, memory.available
    cached = parts.get("file", 0) - parts.get("shmem", 0)
    free = max(limit - (used - cached), 0)
    return min(memory.total, limit), min(memory.available, free)
