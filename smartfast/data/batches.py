"""The stream of real images: which sample comes when, and batches of them on the device.

Everything is a pure function of (seed, global position): a run that resumes at any image, or that splits
its batches over processes in any way, sees the same samples with the same mirror flips.
"""

from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from smartfast.core.distributed import processes_on_this_machine
from smartfast.core.draws import Purpose
from smartfast.core.main_memory import main_memory_bytes
from smartfast.core.pixels import to_float
from smartfast.data.holdout import TrainingImages
from smartfast.data.streaming import stream_batches, to_device
from smartfast.errors import UserError
from smartfast.kernels import philox_uniform

_PLANNED_ITERATIONS = 64
_AUTO_CACHE_FRACTION = 0.25
_GIB = 2**30


class RealBatch(NamedTuple):
    """Real images float32 [local, C, H, W] in [-1, 1] and labels int64 [local], or vectors float32
    [local, F] (None without), on the device."""

    images: Tensor
    labels: Tensor | None


class _Plan(NamedTuple):
    """Which samples the coming iterations take: data indices int64 and mirror flips bool, [iterations, local]."""

    indices: Tensor
    flips: Tensor | None

    def to(self, device: torch.device) -> "_Plan":
        return _Plan(to_device(self.indices, device), None if self.flips is None else to_device(self.flips, device))


def sample_indices(seed: int, positions: Tensor, size: int) -> Tensor:
    """The data index of each position in the endless sequence of samples.

    Positions k*size .. (k+1)*size - 1 are epoch k: one random permutation of the data set.

    Args:
        seed: Seed of the run.
        positions: int64, any shape, not negative, on the CPU.
        size: Images in the data set.

    Returns:
        int64, the shape of `positions`, values in [0, size).
    """
    epochs = positions // size
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        chosen = epochs == epoch
        indices[chosen] = _epoch_order(seed, epoch, size)[positions[chosen] % size]
    return indices


def iterate_batches(
    dataset: TrainingImages,
    *,
    seed: int,
    batch: int,
    offsets: Tensor,
    start_images: int,
    device: torch.device | str,
    mirror: bool,
    cache: Literal["auto", "device", "stream"],
    workers: int,
    class_group: int = 1,
    compiler: Callable[[str, Callable[..., RealBatch]], Callable[..., RealBatch]] | None = None,
) -> Generator[RealBatch]:
    """The endless sequence of this process's real batches; closing it ends the loader processes.

    Iteration k yields the samples at the global positions start_images + k * batch + offsets. With the cache,
    all images are decoded before this function returns, and the device is never waited for. While streaming, each batch
    is read, and on a GPU copied to it on a side stream, while the batch before it is used.

    Args:
        dataset: Where the images come from.
        seed: Seed of the run; orders the samples and decides the flips.
        batch: Images per iteration over all processes.
        offsets: int64 [local], this process's places in the global batch.
        start_images: Global position of the first batch; images shown before, when a run resumes.
        device: Where the batches go.
        mirror: Flip each image horizontally with probability 1/2.
        cache: Keep all images on the device as uint8, or stream them; auto keeps what fits in a quarter of the
            free memory of the device, on a CPU of this process's share of it.
        workers: Loader processes when streaming; 0 loads in this process.
        class_group: Order each global batch by class so that the places that are equal modulo batch / class_group hold
            as few classes as possible; needs labels. 1 leaves the order as it is.
        compiler: Called once with "data" and the function of what is done on the device (selecting, flipping,
            normalizing); returns it compiled, with the same bits. None leaves it eager.

    Raises:
        UserError: An image cannot be decoded (while streaming: when its batch is due), or `cache` is "device"
            and the images do not fit.
    """
    device = torch.device(device)
    labels = None if dataset.labels is None else dataset.labels.to(device)
    order = _ClassOrder(dataset.labels, class_group) if class_group > 1 and dataset.labels is not None else None
    plans = _plans(seed, len(dataset), batch, offsets.cpu(), start_images, mirror, order)
    is_cached = _fits_on_device(dataset, device, cache)
    prepare: Callable[..., RealBatch] = _select if is_cached else _finish
    if compiler is not None:
        prepare = compiler("data", prepare)
    if is_cached:
        # On a CPU a copy too: the images may be mapped from a file, which can vanish from a network file system.
        images = dataset.all_images().to(device, copy=True)
        return _cached_batches(images, labels, plans, device, prepare)
    raws = stream_batches(dataset, _rows(plans), device, workers)
    return (prepare(raw.images, labels, raw.indices, raw.flips) for raw in raws)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.randperm(size, generator=torch.Generator().manual_seed(int(mixed[0])))


class _ClassOrder:
    """Orders global batches by class, for `class_group` of `iterate_batches`."""

    def __init__(self, labels: Tensor, group: int) -> None:
        self.labels, self.group = labels.cpu(), group

    def __call__(self, indices: Tensor) -> Tensor:
        """Permutation of each row of data indices [iterations, batch], for torch.gather."""
        by_class = self.labels[indices].argsort(dim=1, stable=True)
        return by_class.unflatten(1, (-1, self.group)).transpose(1, 2).flatten(1)


def _plans(
    seed: int, size: int, batch: int, offsets: Tensor, start_images: int, mirror: bool, order: _ClassOrder | None
) -> Iterator[_Plan]:
    """Plans of many iterations each: drawing a flip takes some hundred small operations, however many are drawn."""
    block = torch.arange(_PLANNED_ITERATIONS * batch).view(-1, batch)
    for first in count(start_images, _PLANNED_ITERATIONS * batch):
        positions = block + first
        if order is not None:
            positions = positions.gather(1, order(sample_indices(seed, positions, size)))
        positions = positions[:, offsets]
        flip = None
        if mirror:
            draws = philox_uniform(seed, positions.flatten(), 1, purpose=Purpose.MIRROR)
            flip = (draws < 0.5).reshape(positions.shape)
        yield _Plan(sample_indices(seed, positions, size), flip)


def _cached_batches(
    images: Tensor,
    labels: Tensor | None,
    plans: Iterator[_Plan],
    device: torch.device,
    select: Callable[..., RealBatch],
) -> Generator[RealBatch]:
    for indices, flips in _rows(plan.to(device) for plan in plans):
        yield select(images, labels, indices, flips)


def _rows(plans: Iterator[_Plan]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Data indices and flips of each iteration."""
    for plan in plans:
        for row, indices in enumerate(plan.indices):
            yield indices, None if plan.flips is None else plan.flips[row]


def _fits_on_device(dataset: TrainingImages, device: torch.device, cache: str) -> bool:
    if cache == "stream":
        return False
    need_bytes = len(dataset) * dataset.channels * dataset.resolution**2
    processes = 1
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
    else:
        processes = processes_on_this_machine()
        free_bytes = main_memory_bytes()[1] // processes  # each keeps a copy
    if cache == "device" and need_bytes > free_bytes:
        sizes = f"{need_bytes / _GIB:.1f} GiB of images and {free_bytes / _GIB:.1f} GiB free on {device}"
        sizes += f" for each of {processes} processes" if processes > 1 else ""
        raise UserError(f"data.cache: device, but {sizes}, expected auto or stream")
    return cache == "device" or need_bytes <= _AUTO_CACHE_FRACTION * free_bytes


def _select(images: Tensor, labels: Tensor | None, indices: Tensor, flips: Tensor | None) -> RealBatch:
    """From all images uint8 [len, C, H, W] to a batch, as `_finish`."""
    return _finish(images.index_select(0, indices), labels, indices, flips)


def _finish(images: Tensor, labels: Tensor | None, indices: Tensor, flips: Tensor | None) -> RealBatch:
    """From images uint8 [local, C, H, W] and all labels [len, ...] on the device to what training sees."""
    if flips is not None:
        images = torch.where(flips[:, None, None, None], images.flip(3), images)
    return RealBatch(to_float(images), None if labels is None else labels.index_select(0, indices))
