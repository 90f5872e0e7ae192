"""What the verification and the tuning of the kernels found on this machine, kept for later runs.

One file for each combination of GPU, driver, PyTorch, Triton and the kernels' sources. A file that cannot be read or
written costs the time of another verification or tuning, nothing else.
"""

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smartfast import kernels
from smartfast.core.caches import default_cache_dir
from smartfast.core.files import write_atomically
from smartfast.kernels import INTERPRETED, switch_off

DRIVER_FILE = Path("/proc/driver/nvidia/version")

PHASE = "phase "
"""With which the verdict of a phase begins; that of an op begins with its name."""

Verdicts = dict[str, str | None]
"""By a call's content: None where its op is right, else what is wrong."""


def machine(device: torch.device) -> dict[str, str]:
    """What a verdict is true for."""
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))
    else:
        name, capability = device.type, ""
    driver = DRIVER_FILE.read_text().splitlines()[0] if device.type == "cuda" and DRIVER_FILE.exists() else ""
    return {
        "device": name,
        "capability": capability,
        "driver": driver,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "torch": torch.__version__,
        "triton": _version_of_triton(),
        "interpreted": str(INTERPRETED),
        "kernels": sources_of(Path(kernels.__file__).parent),
    }


def _version_of_triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # there is none but for Linux
        return ""


@functools.cache
def sources_of(folder: Path) -> str:
    """A hash of every Python file below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class MachineFile:
    """What was found on one machine; a file of another machine, or one that is no such file, is not believed.

    Args:
        folder: Of all such files.
        machine: See `machine`.
    """

    kind, lost = "verdicts", "the kernels are verified again"

    def __init__(self, folder: Path, machine: dict[str, str]) -> None:
        self.machine = machine
        name = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / (f"{name}.json" if self.kind == "verdicts" else f"{name}.{self.kind}.json")

    def read(self) -> tuple[dict[str, Any], str | None]:
        """What was found, nothing where there is no such file, and why a file is not taken."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}, None
        except (OSError, ValueError) as error:
            return {}, f"{self.path} cannot be read ({error}); {self.lost}"
        if not self._is_right(content):
            return {}, f"{self.path} is not a file of {self.kind} of this machine; {self.lost}"
        return content[self.kind], None

    def _is_right(self, content: object) -> bool:
        if not isinstance(content, dict) or content.get("machine") != self.machine:
            return False
        found = content.get(self.kind)
        return isinstance(found, dict) and all(self.is_value(value) for value in found.values())

    def is_value(self, value: object) -> bool:
        """Whether this is something that such a file can hold."""
        return value is None or isinstance(value, str)

    def write(self, found: Mapping[str, Any]) -> str | None:
        """Keep what was found; returns why it could not be."""
        content = json.dumps({"machine": self.machine, self.kind: found}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, content.encode())
        except OSError as error:
            return f"{self.path} cannot be written ({error.strerror}); next time {self.lost}"
        return None


class VerdictFile(MachineFile):
    """The verdicts of one machine, by a call's content: None, or what is wrong."""


def summary(device: torch.device, folder: Path) -> list[str]:
    """What is known of the kernels on this machine, in lines: how much was verified, and what is switched off."""
    here = machine(device)
    verdicts, complaint = VerdictFile(folder, here).read()
    times, _ = TimesFile(folder, here).read()
    lines = [complaint] if complaint is not None else []
    lines.append(f"on {here['device']}: {len(verdicts)} verified, {len(times)} calls timed")
    failed = {
        content.partition("(")[0]: problem for content, problem in verdicts.items() if problem and is_of_op(content)
    }
    lines += [f"{op} is switched off, its Triton kernels failed: {problem}" for op, problem in failed.items()]
    phases = [problem for content, problem in verdicts.items() if problem and content.startswith(PHASE)]
    return [*lines, *phases]


def is_of_op(content: str) -> bool:
    """Whether a verdict is that of an op; a form that is wrong leaves the op its others."""
    return not content.startswith(PHASE) and not content.rpartition(")")[2].startswith(" as ")


def switch_off_known(device: torch.device) -> None:
    """Have ops run as aten whose Triton kernels an earlier verification on this machine found wrong."""
    if device.type != "cuda":
        return
    verdicts, _ = VerdictFile(default_cache_dir() / "kernels", machine(device)).read()
    for content, problem in verdicts.items():
        if problem is not None and is_of_op(content):
            switch_off(content.partition("(")[0], f"its Triton kernels failed on this machine: {problem}")


class TimesFile(MachineFile):
    """The times of one machine, by a call's content with how a run has it: {"seconds": by way, "launches": by form}."""

    kind, lost = "times", "the kernels are tuned again"

    def is_value(self, value: object) -> bool:
        """See `is_times`."""
        return is_times(value)


def is_times(value: object) -> bool:
    """Whether this is what was found of a call: seconds by way, and keys of launches by form."""
    if not isinstance(value, dict) or set(value) != {"seconds", "launches"}:
        return False
    seconds, launches = value["seconds"], value["launches"]
    return (
        isinstance(seconds, dict)
        and isinstance(launches, dict)
        and all(isinstance(sec, int | float) and sec > 0 for sec in seconds.values())
        and all(isinstance(keys, list) and all(isinstance(key, str) for key in keys) for keys in launches.values())
    )
