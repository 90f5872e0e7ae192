"""What a result depends on: commit, versions, processor or GPU, its power limit and driver."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import triton


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name and sizes of a device; on CUDA with power limit and driver, otherwise with the threads that torch uses."""
    if device.type != "cuda":
        return {"type": device.type, "name": processor(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        **_nvidia_smi(str(properties.uuid)),
    }


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """This checkout's commit, `-dirty` where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


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


def _nvidia_smi(uuid: str) -> dict[str, Any]:
    """Power limit in watts and driver; None where the tool is absent or does not say."""
    query = ["--query-gpu=power.limit,driver_version", "--format=csv,noheader,nounits"]
    try:
        command = ["nvidia-smi", f"--id=GPU-{uuid}", *query]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        watts, driver = answer.stdout.strip().split(", ")
        return {"power_limit_watts": float(watts), "driver": driver}
    except (OSError, subprocess.CalledProcessError, ValueError):
        return {"power_limit_watts": None, "driver": None}
