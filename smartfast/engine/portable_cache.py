"""Compiled code as one file, to carry to machines of the same kind: a line of JSON that says for which, then the code.

PyTorch's own format (torch.compiler.save_cache_artifacts) is true for one version and kind of machine, and is code that
later runs execute, as every compiled cache is.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path

import torch

from smartfast.core.files import write_atomically
from smartfast.engine.compiling import compile_cache_dir
from smartfast.errors import UserError

FORMAT = "smartfast compiled code 1"


def combination(device: torch.device) -> dict[str, str]:
    """What compiled code is true for."""
    has_triton = importlib.util.find_spec("triton") is not None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if has_triton else "none",
        "device": name,
    }


def export_compiled(file: Path, device: torch.device) -> int:
    """Write what this process has compiled, or found compiled; returns the bytes.

    Raises:
        UserError: Nothing was compiled, or the file cannot be written.
    """
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        raise UserError(f"cache export {file}: nothing was compiled, expected at least one phase")
    content = saved[0]
    header = {"format": FORMAT, **combination(device), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        write_atomically(file, json.dumps(header).encode() + b"\n" + content)
    except OSError as error:
        raise UserError(f"cache export {file}: expected a file that can be written ({error.strerror})") from error
    return len(content)


def import_compiled(file: Path, device: torch.device) -> int:
    """Add a file of `export_compiled` to the compiled code that is kept here; returns the number of its parts.

    Raises:
        UserError: It is no such file, a damaged one, or one for another machine.
    """
    content = _content(file, device)
    compile_cache_dir()  # before the compiler chooses a folder of its own
    # What reads the parts of a file registers itself when it is imported.
    import torch._functorch._aot_autograd.autograd_cache
    import torch._inductor.codecache  # noqa: F401

    info = torch.compiler.load_cache_artifacts(content)
    if info is None:
        raise UserError(f"cache import {file}: torch cannot read it, expected a file of cache export")
    return sum(len(keys) for keys in info.artifacts.values())


def _content(file: Path, device: torch.device) -> bytes:
    expected = "expected a file of cache export"
    try:
        line, _, content = file.read_bytes().partition(b"\n")
        header = json.loads(line)
    except OSError as error:
        raise UserError(f"cache import {file}: {error.strerror}, {expected}") from error
    except ValueError as error:
        raise UserError(f"cache import {file}: found no header, {expected}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"cache import {file}: found no header, {expected}")
    here = combination(device)
    other = [f"{name} {header.get(name)} (here {value})" for name, value in here.items() if header.get(name) != value]
    if other:
        raise UserError(f"cache import {file}: it is for {', '.join(other)}, expected a file made on such a machine")
    if header.get("sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(f"cache import {file}: it is damaged or cut off, {expected}")
    return content
