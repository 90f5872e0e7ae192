"""How much memory a run needs, known before anything is allocated.

The networks are built without memory, and every phase runs on fake tensors, as plain PyTorch. At every start what
autograd keeps of the largest phase for its backward pass is counted, beside weights, gradients, moments of Adam and the
average: a run that is refused could not have worked, for scorer, images and what the backward pass itself takes come on
top. Who asks for it gets the peak of each phase, which takes as many seconds again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from smartfast import kernels
from smartfast.config.schema import Config
from smartfast.core.live_bytes import LiveBytes
from smartfast.core.main_memory import main_memory_bytes
from smartfast.core.text import format_bytes, format_table
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseSpec, with_gradients
from smartfast.engine.schedules import DeviceScalars
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.base import Family, Parts
from smartfast.families.rounds import Round
from smartfast.scorers import Scorer, TimestepRange

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
        with _without_data(config, dataset, images) as run:
            return Forecast(_weights_bytes(run.family), max(_kept_bytes(spec, run) for spec in run.specs))
    except OverflowError:
        return Forecast(float("inf"), float("inf"))


class Peaks(NamedTuple):
    """Bytes: of weights with all that is as large as they are, of the scorer, and the peak of each phase above them."""

    weights_bytes: int
    scorer_bytes: int
    phases: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """The most at a time."""
        return self.weights_bytes + self.scorer_bytes + max(self.phases.values())


def peaks(
    config: Config, dataset: ImageDataset, images: int, scorer: Scorer | None, timesteps: TimestepRange | None
) -> Peaks:
    """What training takes at its peak in one process that works on `images` images at a time.

    As plain PyTorch on a CPU: compiled phases and Triton's kernels take less, and half precision on a GPU too. What an
    operation needs for itself while it runs, such as a convolution's workspace, comes on top.

    Args:
        config: Of the run.
        dataset: Its images, of which shape and classes matter.
        images: Of a round of gradient accumulation.
        scorer, timesteps: Of its score term, None = without.

    Raises:
        OverflowError: A tensor would have more bytes than can be counted.
    """
    with _without_data(config, dataset, images, scorer, timesteps) as run:
        phases = {spec.name: _peak_bytes(spec, run) for spec in run.specs}
        tensors = [] if scorer is None else [*scorer.parameters(), *scorer.buffers()]
        return Peaks(_weights_bytes(run.family), sum(tensor.nbytes for tensor in tensors), phases)


def describe_peaks(found: Peaks, images: int) -> str:
    """The table of them."""
    rows = [["weights, gradients, Adam, average", format_bytes(found.weights_bytes)]]
    if found.scorer_bytes:
        rows.append(["scorer", format_bytes(found.scorer_bytes)])
    rows += [[f"phase {name}", format_bytes(size)] for name, size in found.phases.items()]
    rows.append(["peak: weights, scorer and the largest phase", format_bytes(found.total_bytes)])
    return format_table([f"Memory, {images} images at a time, as plain PyTorch", "at most at a time"], rows)


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
    there, free = memory_bytes(device)
    shared = processes if device.type == "cpu" else 1
    where = "this machine" if device.type == "cpu" else "this GPU"
    total, weights, activations = map(format_bytes, (needed.total_bytes, *needed))
    line = (
        f"memory: at least {total} per process ({weights} for weights and Adam, {activations} for {images} images at a "
        f"time), {where} has {format_bytes(there)}"
    )
    if shared * needed.weights_bytes > there:
        raise UserError(f"{line}: lower the resolution or the sizes in gan, such as gan.{_largest(config)}")
    may_keep_less = config.run.dry_run or config.perf.compile  # compiled phases compute some of it anew
    if shared * needed.total_bytes > there and not may_keep_less:
        raise UserError(f"{line}: lower optim.batch_gpu (now {images}) or the sizes in gan")
    if shared * needed.total_bytes * _PEAK < free:
        return f"{line}, {format_bytes(free)} of it free"
    return (
        f"{line}, only {format_bytes(free)} of it free: TOO LITTLE, as the peak is about {_PEAK} times as high; "
        f"lower optim.batch_gpu (now {images})"
    )


def _largest(config: Config) -> str:
    sizes = {name: value for name, value in vars(config.gan).items() if isinstance(value, int)}
    name = max(sizes, key=lambda name: sizes[name])
    return f"{name} (now {sizes[name]})"


class _Run(NamedTuple):
    """A run on tensors without data."""

    family: Family
    specs: Sequence[PhaseSpec]
    batch: Round


@contextmanager
def _without_data(
    config: Config,
    dataset: ImageDataset,
    images: int,
    scorer: Scorer | None = None,
    timesteps: TimestepRange | None = None,
) -> Iterator[_Run]:
    try:
        with torch.device("meta"):
            family = FAMILIES[config.gan.family](config, dataset)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake, torch.device("cpu"):
            for module in family.modules.values():
                module.to_empty(device="cpu")
            family.variables = {name: torch.empty(value.shape) for name, value in family.variables.items()}
            index = torch.empty(images, dtype=torch.int64)
            labels = index if family.num_classes else None
            batch = Round(index, torch.empty(images, *family.image_shape).requires_grad_(), labels)
        scalars = DeviceScalars(torch.device("cpu"))
        score = family.score_term(scorer, timesteps, scalars)
        specs = family.phases(Parts(labels, scalars, score, num_processes=1, scorer=scorer))  # may read a schedule
        with fake, torch.device("cpu"), kernels.use("aten"):
            yield _Run(family, specs, batch)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise OverflowError(str(error)) from error


def _weights_bytes(family: Family) -> int:
    parameters = [p for module in family.modules.values() for p in module.parameters()]
    weights = sum(p.numel() * (_COPIES_OF_WEIGHTS if p.requires_grad else 1) for p in parameters)
    weights += sum(p.numel() for p in family.modules[family.averaged].parameters())
    return _BYTES_PER_WEIGHT * weights


def _peak_bytes(spec: PhaseSpec, run: _Run) -> int:
    """Bytes that a phase takes at most at a time for its loss and the gradients of its network."""
    parameters = [p for p in run.family.modules[spec.network].parameters() if p.requires_grad]
    with LiveBytes() as live:
        with_gradients(spec, parameters)(run.batch)
    return live.peak_bytes


def _kept_bytes(phase: PhaseSpec, run: _Run) -> int:
    """Bytes that the loss of a phase keeps for its backward pass, beside the parameters."""
    own = {p.untyped_storage()._cdata for module in run.family.modules.values() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        phase.loss(run.batch)
    return sum(storage.nbytes() for storage in kept.values())


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """What there is on a device and what of it is free now; of main memory what a container's limit leaves."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    return main_memory_bytes()
