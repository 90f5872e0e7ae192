"""Small Markdown tables, and the header that says how a result came about."""

import platform
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton

from bench.machine import commit, describe_device


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None shows as a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def versions() -> dict[str, str]:
    """What determines a result that needs no GPU."""
    return {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}


def provenance(command: str) -> str:
    """One line for the top of a result: the command and the versions."""
    return f"`{command}`, " + ", ".join(f"{name} {version}" for name, version in versions().items())


def machine(device: torch.device) -> str:
    """What a timing depends on beside the versions, in one line: commit, GPU or processor and threads."""
    facts = describe_device(device)
    name = facts["name"] if device.type == "cuda" else f"{facts['name']}, {facts['threads']} threads"
    return f"commit {commit()}, {name}"
