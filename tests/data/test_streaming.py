"""Streamed batches: read ahead, in order, copied beside the GPU's work; and the compiled last step."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, RealBatch, iterate_batches, open_dataset
from smartfast.data.streaming import stream_batches
from smartfast.engine.compiling import Compiler
from smartfast.errors import UserError

SIZE = 23


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(SIZE) % 5)
    return open_dataset(DataConfig(path=str(tmp_path / "set.npz"), labels=True))


def batches(dataset: ImageDataset, count: int, device: str = "cpu", **changes: object) -> list[RealBatch]:
    options = dict(seed=7, batch=6, offsets=torch.arange(6), start_images=0, device=device, mirror=True)
    options |= dict(cache="stream", workers=0)
    return list(islice(iterate_batches(dataset, **(options | changes)), count))  # type: ignore[arg-type]


def rows(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.tensor([k % SIZE, (3 * k) % SIZE]), torch.tensor([k % 2 == 0, k % 3 == 0])) for k in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_the_rows_to_the_last(dataset: ImageDataset, workers: int) -> None:
    found = list(stream_batches(dataset, iter(rows(30)), torch.device("cpu"), workers))
    assert len(found) == 30
    images = dataset.all_images()
    for (indices, flips), raw in zip(rows(30), found, strict=True):
        assert torch.equal(raw.images, images[indices])
        assert torch.equal(raw.indices, indices) and torch.equal(raw.flips, flips)


def test_the_next_batch_is_read_before_one_is_handed_out(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(dataset, "image", lambda index: read.append(index) or torch.zeros(3, 8, 8).byte())
    stream = stream_batches(dataset, iter(rows(4)), torch.device("cpu"), workers=0)
    assert read == []
    for handed_out in range(1, 5):
        next(stream)
        assert len(read) == 2 * min(handed_out + 1, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_ends_the_stream_when_it_is_due(
    random_image: Callable[..., Image.Image], write_files: Callable[..., Path], workers: int
) -> None:
    path = write_files({f"{i}.jpg": random_image(i, (64, 64)) for i in range(4)})
    damaged = open_dataset(DataConfig(path=str(path)))
    content = (path / "2.jpg").read_bytes()
    (path / "2.jpg").write_bytes(content[: len(content) // 2])
    stream = stream_batches(
        damaged, ((torch.tensor([k]), None) for k in (0, 1, 3, 2, 0)), torch.device("cpu"), workers=workers
    )
    assert len(list(islice(stream, 3))) == 3
    with pytest.raises(UserError, match=r"/set/2\.jpg: not a readable image"):
        next(stream)


def test_closing_the_batches_ends_the_loader_processes(dataset: ImageDataset) -> None:
    before = set(psutil.Process().children())
    options = dict(seed=7, batch=6, offsets=torch.arange(6), start_images=0, mirror=True)
    stream = iterate_batches(dataset, **options, device="cpu", cache="stream", workers=2)
    next(stream)
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    stream.close()
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize(("cache", "mirror"), [("device", True), ("stream", False)])
def test_compiled_batches_are_bit_equal_without_recompiling(dataset: ImageDataset, cache: str, mirror: bool) -> None:
    counters.clear()
    said: list[str] = []
    compiler = Compiler("on", said.append)
    compiled = batches(dataset, 70, cache=cache, mirror=mirror, compiler=compiler)
    for found, expected in zip(compiled, batches(dataset, 70, cache=cache, mirror=mirror), strict=True):
        assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert said[0] == "compiling data ..." and compiler.total_sec > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_copies_beside_a_busy_gpu_are_right_and_never_waited_for(dataset: ImageDataset, workers: int) -> None:
    """Each batch is used behind a long wait in the GPU's queue, and its memory then given back at once."""
    options = dict(seed=7, batch=6, offsets=torch.arange(6), start_images=0, mirror=True)
    stream = iterate_batches(dataset, **options, device="cuda", cache="stream", workers=workers)
    used = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(70):
            batch = next(stream)
            torch.cuda._sleep(2_000_000)
            used.append(batch.images * 1)
            del batch
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for found, expected in zip(used, batches(dataset, 70), strict=True):
        assert torch.equal(found.cpu(), expected.images)
