"""How much memory a run needs at least, known before anything is allocated.

The networks are built without memory, and every phase runs on fake tensors: what autograd keeps of the largest one for
its backward pass is counted, beside weights, gradients, moments of Adam and the average. A run that is refused could
not have worked: scorer, images and what the backward pass itself takes come on top.
"""

from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from smartfast import kernels
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseSpec
from smartfast.engine.schedules import DeviceScalars
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.base import Family, Parts
from smartfast.families.rounds import Round

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GIB = 2**30
_BYTES_PER_WEIGHT = 4
_PEAK = 2
"""Of a run, as a multiple of what is counted: imagenet64 in fp32 on a CPU had 22.9 GB where 13.0 are."""
_COPIES_OF_WEIGHTS = 4  # themselves, the gradient, Adam's two moments


class Forecast(NamedTuple):
    """Bytes: of weights with all that is as large as they are, and of what the largest phase keeps."""

    weights_bytes: float
    activations_bytes: float

    @property
    def total_bytes(self) -> float:
        """Both."""
        return self.weights_bytes + self.activations_bytes


def forecast(config: Config, dataset: ImageDataset, images: int) -> Forecast:
    """What training needs at least in one process that works on `images` images at a time."""
    try:
        with torch.device("meta"):
            family = FAMILIES[config.gan.family](config, dataset)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"), kernels.use("aten"):
            for module in family.modules.values():
                module.to_empty(device="cpu")
            family.variables = {name: torch.empty(value.shape) for name, value in family.variables.items()}
            index = torch.empty(images, dtype=torch.int64)
            labels = index if family.num_classes else None
            batch = Round(index, torch.empty(images, *family.image_shape).requires_grad_(), labels)
            phases = family.phases(Parts(labels, DeviceScalars(torch.device("cpu")), None, num_processes=1))
            activations = max(_kept_bytes(phase, batch, family) for phase in phases)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        return Forecast(float("inf"), float("inf"))
    parameters = [p for module in family.modules.values() for p in module.parameters()]
    weights = sum(p.numel() * (_COPIES_OF_WEIGHTS if p.requires_grad else 1) for p in parameters)
    weights += sum(p.numel() for p in family.modules[family.averaged].parameters())
    return Forecast(_BYTES_PER_WEIGHT * weights, activations)


def check_memory(config: Config, needed: Forecast, images: int, device: torch.device, processes: int) -> str:
    """One line on the memory that is needed and that there is.

    Args:
        config: Of the run; one that is only described, or compiled, is refused for its weights alone.
        needed: In each process.
        images: At a time, in each process.
        device: Of the run.
        processes: On this machine.

    Raises:
        UserError: There is less.
    """
    there, free = _memory_bytes(device)
    shared = processes if device.type == "cpu" else 1
    where = "this machine" if device.type == "cpu" else "this GPU"
    parts = f"{_size(needed.weights_bytes)} for weights and Adam, {_size(needed.activations_bytes)} for {images} images"
    line = f"memory: at least {_size(needed.total_bytes)} per process ({parts} at a time), {where} has {_size(there)}"
    if shared * needed.weights_bytes > there:
        raise UserError(f"{line}: lower the resolution or the sizes in gan, such as gan.{_largest(config)}")
    may_keep_less = config.run.dry_run or config.perf.compile  # compiled phases compute some of it anew
    if shared * needed.total_bytes > there and not may_keep_less:
        raise UserError(f"{line}: lower optim.batch_gpu (now {images}) or the sizes in gan")
    if shared * needed.total_bytes * _PEAK < free:
        return f"{line}, {_size(free)} of it free"
    return (
        f"{line}, only {_size(free)} of it free: TOO LITTLE, as the peak is about {_PEAK} times as high; "
        f"lower optim.batch_gpu (now {images})"
    )


def _largest(config: Config) -> str:
    sizes = {name: value for name, value in vars(config.gan).items() if isinstance(value, int)}
    name = max(sizes, key=lambda name: sizes[name])
    return f"{name} (now {sizes[name]})"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / _GIB:.1f} GiB" if size_bytes >= _GIB else f"{size_bytes / 2**20:.0f} MiB"


def _kept_bytes(phase: PhaseSpec, batch: Round, family: Family) -> int:
    """Bytes that the loss of a phase keeps for its backward pass, beside the parameters."""
    own = {p.untyped_storage()._cdata for module in family.modules.values() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        phase.loss(batch)
    return sum(storage.nbytes() for storage in kept.values())


def _memory_bytes(device: torch.device) -> tuple[int, int]:
    """What there is on a device and what of it is free now; of main memory what a container's limit leaves."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    memory = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    total = memory.total if limit == "max" else min(memory.total, int(limit))
    return total, min(memory.available, total)
