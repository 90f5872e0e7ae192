"""`smartfast doctor`: what is installed, which devices there are, what each op runs on, and what is missing.

Every section is asked on its own; one that fails says so in its place, and the others still appear.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from smartfast.config.ranges import FilePath, KimgOrZero
from smartfast.core.main_memory import main_memory_bytes

PACKAGES = (
    "smartfast",
    "torch",
    "triton",
    "torchvision",
    "diffusers",
    "accelerate",
    "torch-fidelity",
    "safetensors",
    "jsonargparse",
)
OPTIONAL_PACKAGES = {"xformers": "xformers", "wandb": "wandb", "datasets": "hf", "imageio-ffmpeg": "video"}

_GIB = 2**30


@dataclass(frozen=True)
class DoctorOptions:
    """What is installed, which devices there are, which implementation each op takes and why."""

    verify: bool = False
    """Instead, check every Triton kernel on this machine's GPU against plain PyTorch: results, gradients and second
    derivatives, on small calls of odd sizes."""
    tune: bool = False
    """Instead, or after --verify, time the ways to compute every op on this machine's GPU at the shapes of a training,
    and keep the fastest of those that are right for later runs."""
    shapes: FilePath = "digits"
    """Preset or YAML file of that training."""
    budget_sec: KimgOrZero = 30.0
    """Seconds after which --tune measures nothing more; what is left keeps its default until the next time."""
    export: FilePath | None = None
    """File for the times of this machine, to be merged where another has the same GPU."""
    merge: FilePath | None = None
    """File of --export whose times are added to this machine's (--import is the same)."""


def doctor() -> str:
    """The whole diagnosis as text. Raises nothing: what fails is said."""
    sections: dict[str, Callable[[], list[str]]] = {
        "versions": _versions,
        "devices": _devices,
        "compiler": _compiler,
        "ops": _ops,
        "kernels on this machine": _verdicts,
        "attention of the scorer": _attention,
        "files": _files,
    }
    lines = []
    for title, section in sections.items():
        lines += [title, *(f"  {line}" for line in _attempt(section)), ""]
    return "\n".join(lines).rstrip()


def _attempt(section: Callable[[], list[str]]) -> list[str]:
    try:
        return section()
    except Exception as error:  # a diagnosis must survive whatever is broken
        return [f"failed: {type(error).__name__}: {' '.join(str(error).split())}"]


def _versions() -> list[str]:
    lines = [f"python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    for package in PACKAGES:
        lines.append(f"{package} {_version(package) or 'not installed, but needed: pip install ' + package}")
    for package, extra in OPTIONAL_PACKAGES.items():
        lines.append(f"{package} {_version(package) or f'not installed (optional: pip install -e .[{extra}])'}")
    return lines


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    total_bytes, free_bytes = main_memory_bytes()
    lines = [
        f"cpu: {psutil.cpu_count(logical=False)} cores, {torch.get_num_threads()} threads used, "
        f"{torch.backends.cpu.get_cpu_capability()} instructions, "
        f"{total_bytes / _GIB:.1f} GiB memory, {free_bytes / _GIB:.1f} GiB free"
    ]
    if not torch.cuda.is_available():
        return [*lines, f"no GPU: {why_no_gpu()}"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        lines.append(
            f"cuda:{index}: {properties.name}, {properties.total_memory / _GIB:.1f} GiB memory, compute capability "
            f"{properties.major}.{properties.minor}, fp16 yes, bf16 {'yes' if bf16 else 'no'}"
        )
    return lines


def why_no_gpu() -> str:
    """Why this process sees none, in a few words."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without GPU support"
    return "torch supports GPUs, but finds none (is the driver installed? `nvidia-smi` tells)"


def _compiler() -> list[str]:
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    found = next((path for name in candidates if name and (path := shutil.which(name))), None)
    if found is None:
        return ["no C++ compiler (CXX, g++, clang++): perf.compile does not work on a CPU; install g++"]
    return [f"C++ compiler {found}: torch.compile is available"]


def _ops() -> list[str]:
    from smartfast.kernels import registered_ops
    from smartfast.run.verdicts import switch_off_known

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    switch_off_known(torch.device(devices[-1]))
    lines = [f"{op} on {device}: {_describe_op(op, device)}" for op in registered_ops() for device in devices]
    return [*lines, *_attempt(_routes)]


def _verdicts() -> list[str]:
    from smartfast.core.caches import default_cache_dir
    from smartfast.run.verdicts import summary

    return summary(torch.device("cuda" if torch.cuda.is_available() else "cpu"), default_cache_dir() / "kernels")


def _routes() -> list[str]:
    if _version("triton") is None:
        return ["no routes of modulated_conv2d without triton"]
    from smartfast.kernels import DEFAULT_ROUTE, ROUTES, measured_shapes

    return [
        f"modulated_conv2d as triton: {measured_shapes()} shapes take the route measured as fastest, "
        f"all others {DEFAULT_ROUTE} ({ROUTES[DEFAULT_ROUTE]}); kernels.explain tells for a call"
    ]


def _describe_op(op: str, device: str) -> str:
    from smartfast.kernels import implementation_of

    try:
        name, reason = implementation_of(op, device)
    except Exception as error:  # SMARTFAST_KERNELS may ask for what an op does not have
        return f"fails: {error}"
    return f"{name} ({reason})"


def _attention() -> list[str]:
    from smartfast.scorers.attention import xformers_problem

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else ["cpu"]
    return [_describe_attention(device, xformers_problem(device)) for device in devices]


def _describe_attention(device: str, problem: str | None) -> str:
    if problem is None:
        return f"on {device}: perf.attention auto takes PyTorch's; xformers' own kernels run too, in half precision"
    return f"on {device}: PyTorch's scaled_dot_product_attention; {problem}"


def _files() -> list[str]:
    return [line for look in (_digits, _features, _scorers, _inception, _cache) for line in _attempt(look)]


def _digits() -> list[str]:
    from smartfast.data.sources.digits import BUNDLED_FILE

    return [_presence("bundled digits", BUNDLED_FILE)]


def _features() -> list[str]:
    from smartfast.metrics.digits.features import WEIGHTS_FILE

    return [_presence("bundled digit features", WEIGHTS_FILE)]


def _scorers() -> list[str]:
    from smartfast.scorers.loading import BUNDLED

    return [_presence(f"bundled scorer {name}", folder) for name, folder in BUNDLED.items()]


def _inception() -> list[str]:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    return [_presence("InceptionV3 weights (downloaded when first needed, or metrics.weights)", file)]


def _cache() -> list[str]:
    from smartfast.core.caches import CACHE_VARIABLE, default_cache_dir

    return [_presence(f"cache of data, metrics and compiled code (change with {CACHE_VARIABLE})", default_cache_dir())]


def _presence(what: str, path: Path) -> str:
    return f"{what}: {path} ({'found' if path.exists() else 'not there'})"
