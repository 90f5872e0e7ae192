"""Batches of images that are too many to keep: read by loader processes, copied to a GPU beside its work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, tee
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smartfast.core.interruption import ignore_signals
from smartfast.data.holdout import TrainingImages
from smartfast.errors import UserError

_PREFETCHED_BATCHES = 4

T = TypeVar("T")
R = TypeVar("R")


class RawBatch(NamedTuple):
    """A batch as it is read: images uint8 [local, C, H, W], data indices int64 [local], mirror flips bool [local]."""

    images: Tensor
    indices: Tensor
    flips: Tensor | None


def stream_batches(
    dataset: TrainingImages, rows: Iterator[tuple[Tensor, Tensor | None]], device: torch.device, workers: int
) -> Iterator[RawBatch]:
    """The batches of `rows` on the device, each started on its way before the one before it is handed out.

    Args:
        dataset: Where the images come from.
        rows: Data indices int64 [local] and mirror flips bool [local] (or None) of each batch, on the CPU.
        device: Where the batches go.
        workers: Loader processes; 0 loads in this process.

    Raises:
        UserError: An image cannot be decoded; when its batch is due.
    """
    on_gpu = device.type == "cuda"
    read = _read_batches(dataset, rows, workers, pin=on_gpu)
    for use in _one_ahead(read, _SideStreamCopy(device) if on_gpu else _ready):
        yield use()


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on the device; a GPU copies them when it comes to it, and nothing here waits."""
    if device.type == "cuda":
        values = values.pin_memory()  # itself, where it is pinned
    return values.to(device, non_blocking=True)


def _read_batches(
    dataset: TrainingImages, rows: Iterator[tuple[Tensor, Tensor | None]], workers: int, *, pin: bool
) -> Iterator[RawBatch | UserError]:
    ahead, rows = tee(rows)
    loader = DataLoader(
        _BatchReader(dataset),
        batch_size=None,
        sampler=(indices.tolist() for indices, _ in ahead),  # an endless one
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=_PREFETCHED_BATCHES if workers else None,
        worker_init_fn=_leave_interrupts_to_trainer,
        generator=torch.Generator(),  # seeds the workers; without one the loader would advance torch's own
    )
    for images, (indices, flips) in zip(loader, rows, strict=False):
        yield images if isinstance(images, UserError) else RawBatch(images, indices, flips)


def _one_ahead(items: Iterable[T], start: Callable[[T], R]) -> Iterator[R]:
    """`map(start, items)` that calls `start` for an item before it hands out the result for the one before."""
    remaining = iter(items)
    started = deque(start(item) for item in islice(remaining, 1))
    while started:
        started.extend(start(item) for item in islice(remaining, 1))
        yield started.popleft()


def _ready(raw: RawBatch | UserError) -> Callable[[], RawBatch]:
    """A batch that is where it is needed: the function returns it, or raises the error that came instead."""

    def use() -> RawBatch:
        if isinstance(raw, UserError):
            raise UserError(str(raw))  # raising itself would tie it, its frames and with them the workers into a cycle
        return raw

    return use


class _SideStreamCopy:
    """Copies batches to a GPU beside the work that is queued there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def __call__(self, raw: RawBatch | UserError) -> Callable[[], RawBatch]:
        """Start the copy; the function that it returns makes the current stream wait for it."""
        if isinstance(raw, UserError):
            return _ready(raw)
        with torch.cuda.stream(self.stream):
            flips = None if raw.flips is None else to_device(raw.flips, self.device)
            copied = RawBatch(to_device(raw.images, self.device), to_device(raw.indices, self.device), flips)
            done = self.stream.record_event()

        def use() -> RawBatch:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for value in copied:
                if value is not None:
                    value.record_stream(current)  # else the side stream could reuse its memory too soon
            return copied

        return use


def _leave_interrupts_to_trainer(worker: int) -> None:
    """What a terminal or a scheduler sends reaches every process of the group; workers must outlive the save."""
    ignore_signals()


class _BatchReader(Dataset[Tensor | UserError]):
    """Reads whole batches: indices to images uint8 [local, C, H, W]."""

    def __init__(self, dataset: TrainingImages) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> Tensor | UserError:
        try:
            return torch.stack([self.dataset.image(index) for index in indices])
        except UserError as error:
            return error  # raised by the reader of the batch: crossing a process would wrap it in a traceback
