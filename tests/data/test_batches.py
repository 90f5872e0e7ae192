"""The order of samples and the batches made of them."""

import signal
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.core.draws import Purpose
from smartfast.data import ImageDataset, RealBatch, iterate_batches, open_dataset, sample_indices
from smartfast.data import batches as batches_module
from smartfast.errors import UserError
from smartfast.kernels import philox_uniform

SIZE = 23


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(SIZE) % 5)
    return open_dataset(DataConfig(path=str(tmp_path / "set.npz"), labels=True))


def batches(dataset: ImageDataset, count: int, **changes: object) -> list[RealBatch]:
    options = dict(seed=7, batch=6, offsets=torch.arange(6), start_images=0, device="cpu", mirror=True)
    options |= dict(cache="device", workers=0)
    return list(islice(iterate_batches(dataset, **(options | changes)), count))  # type: ignore[arg-type]


def assert_equal(found: list[RealBatch], expected: list[RealBatch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert (one.labels is None) == (other.labels is None)
        assert one.labels is None or torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("size", [1, 2, 10, 1797])
def test_every_epoch_is_one_permutation(size: int) -> None:
    order = sample_indices(3, torch.arange(5 * size), size).reshape(5, size)
    assert order.dtype == torch.int64
    for epoch in order:
        assert epoch.sort().values.tolist() == list(range(size))
    if size >= 10:
        assert len({tuple(epoch.tolist()) for epoch in order}) == 5


def test_class_groups_hold_the_same_images_ordered_by_class(dataset: ImageDataset) -> None:
    """Places that are equal modulo batch / group form a group: the runs of the batch sorted by class."""
    options = dict(batch=12, offsets=torch.arange(12), mirror=False)
    plain, grouped = batches(dataset, 4, **options), batches(dataset, 4, **options, class_group=3)
    for before, after in zip(plain, grouped, strict=True):
        groups = after.labels.reshape(3, 4).t()
        assert torch.equal(groups.flatten(), before.labels.sort().values)
        assert sorted(map(bytes, before.images.numpy())) == sorted(map(bytes, after.images.numpy()))
    split = [batches(dataset, 4, **(options | {"offsets": torch.tensor(o)}), class_group=3) for o in ([0, 5], [11])]
    for whole, *parts in zip(grouped, *split, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images[[0, 5, 11]])
    resumed = batches(dataset, 3, **options, class_group=3, start_images=12)
    assert_equal(resumed, grouped[1:])


def test_order_is_a_function_of_seed_and_position_alone() -> None:
    whole = sample_indices(3, torch.arange(70), SIZE)
    scattered = torch.tensor([[69, 0, 23], [22, 46, 45]])
    assert torch.equal(sample_indices(3, scattered, SIZE), whole[scattered])
    assert not torch.equal(sample_indices(4, torch.arange(70), SIZE), whole)


def test_order_of_a_huge_position() -> None:
    first = 10**12 // SIZE * SIZE
    order = sample_indices(0, torch.arange(first, first + SIZE), SIZE)
    assert order.sort().values.tolist() == list(range(SIZE))


def test_first_places_are_uniform_over_epochs() -> None:
    epochs, size = 2000, 5
    firsts = sample_indices(11, torch.arange(epochs) * size, size)
    counts = torch.bincount(firsts, minlength=size).double()
    chi_square = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
    assert chi_square < 23.5  # 4 degrees of freedom: one seed in 10,000 is above


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_are_the_images_at_the_sampled_indices(dataset: ImageDataset, mirror: bool) -> None:
    stored = dataset.all_images().double()
    for step, batch in enumerate(batches(dataset, 80, mirror=mirror, start_images=4)):
        positions = 4 + step * 6 + torch.arange(6)
        index = sample_indices(7, positions, SIZE)
        flips = philox_uniform(7, positions, 1, purpose=Purpose.MIRROR)[:, 0] < 0.5
        for place in range(6):
            image = stored[index[place]] / 127.5 - 1
            image = image.flip(2) if mirror and flips[place] else image
            torch.testing.assert_close(batch.images[place].double(), image, rtol=0, atol=1e-6)
        assert batch.labels is not None and dataset.labels is not None
        assert batch.labels.tolist() == dataset.labels[index].tolist()
        assert batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mirror", [False, True])
def test_streamed_equals_cached(dataset: ImageDataset, workers: int, mirror: bool) -> None:
    streamed = batches(dataset, 70, cache="stream", workers=workers, mirror=mirror, start_images=17)
    assert_equal(streamed, batches(dataset, 70, mirror=mirror, start_images=17))


@pytest.mark.parametrize("cache", ["device", "stream"])
@pytest.mark.parametrize("done", [1, 5, 66])
def test_resumed_equals_uninterrupted(dataset: ImageDataset, cache: str, done: int) -> None:
    whole = batches(dataset, done + 70, cache=cache)
    assert_equal(batches(dataset, 70, cache=cache, start_images=done * 6), whole[done:])


@pytest.mark.parametrize("places", [[[0, 1, 2], [3, 4, 5]], [[0, 2, 4], [1, 3, 5]], [[5], [0, 3, 1, 2, 4]]])
@pytest.mark.parametrize("cache", ["device", "stream"])
def test_split_over_processes(dataset: ImageDataset, places: list[list[int]], cache: str) -> None:
    whole = batches(dataset, 9)
    for part in places:
        expected = [RealBatch(b.images[part], None if b.labels is None else b.labels[part]) for b in whole]
        assert_equal(batches(dataset, 9, offsets=torch.tensor(part), cache=cache), expected)


def test_batch_size_does_not_change_the_samples(dataset: ImageDataset) -> None:
    small = torch.cat([batch.images for batch in batches(dataset, 70, batch=6)])
    large = torch.cat([batch.images for batch in batches(dataset, 14, batch=30, offsets=torch.arange(30))])
    assert torch.equal(small, large)


def test_unlabelled_batches_have_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((3, 4, 4), np.uint8))
    unlabelled = open_dataset(DataConfig(path=str(tmp_path / "set.npz")))
    for cache in ("device", "stream"):
        assert batches(unlabelled, 1, cache=cache)[0].labels is None


def test_streaming_leaves_torch_random_numbers_alone(dataset: ImageDataset) -> None:
    state = torch.get_rng_state()
    batches(dataset, 3, cache="stream", workers=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_zip_is_streamed_by_several_processes(
    random_image: Callable[..., Image.Image], write_files: Callable[..., Path]
) -> None:
    path = write_files({f"{i:02d}.png": random_image(i) for i in range(SIZE)}, "set.zip")
    zipped = open_dataset(DataConfig(path=str(path)))
    assert_equal(batches(zipped, 40, cache="stream", workers=2), batches(zipped, 40))


def test_auto_caches_what_fits_in_a_quarter_of_the_free_memory(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_at_once = []
    monkeypatch.setattr(dataset, "all_images", lambda: decoded_at_once.append(1) or torch.zeros(SIZE, 3, 8, 8).byte())
    need_bytes = SIZE * 3 * 8 * 8
    for free_bytes, cached in ((4 * need_bytes, 1), (4 * need_bytes - 1, 0)):
        monkeypatch.setattr(batches_module, "main_memory_bytes", lambda free=free_bytes: (free, free))
        decoded_at_once.clear()
        batches(dataset, 1, cache="auto")
        assert len(decoded_at_once) == cached


def test_processes_share_the_memory_of_a_machine_without_a_gpu(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_at_once = []
    monkeypatch.setattr(dataset, "all_images", lambda: decoded_at_once.append(1) or torch.zeros(SIZE, 3, 8, 8).byte())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    enough_bytes = 3 * 4 * SIZE * 3 * 8 * 8
    for free_bytes, cached in ((enough_bytes, 1), (enough_bytes - 3, 0)):
        monkeypatch.setattr(batches_module, "main_memory_bytes", lambda free=free_bytes: (free, free))
        decoded_at_once.clear()
        batches(dataset, 1, cache="auto")
        assert len(decoded_at_once) == cached
    monkeypatch.setattr(batches_module, "main_memory_bytes", lambda: (300, 300))
    with pytest.raises(UserError, match=r"GiB free on cpu for each of 3 processes, expected auto or stream$"):
        batches(dataset, 1, cache="device")


def test_cache_that_does_not_fit_is_refused(dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "main_memory_bytes", lambda: (100, 100))
    with pytest.raises(UserError, match=r"^data\.cache: device, but .* GiB free on cpu, expected auto or stream$"):
        batches(dataset, 1, cache="device")


def test_workers_survive_an_interrupt_of_the_trainer(dataset: ImageDataset) -> None:
    before = set(psutil.Process().children())
    iterator = iterate_batches(
        dataset, seed=7, batch=6, offsets=torch.arange(6), start_images=0, device="cpu", mirror=True,
        cache="stream", workers=2,
    )  # fmt: skip
    found = [next(iterator)]
    for worker in set(psutil.Process().children()) - before:
        worker.send_signal(signal.SIGINT)
    assert_equal(found + list(islice(iterator, 40)), batches(dataset, 41))


@pytest.fixture
def damaged(random_image: Callable[..., Image.Image], write_files: Callable[..., Path]) -> ImageDataset:
    """A JPEG cut in the middle after it has been checked."""
    path = write_files({f"{i}.jpg": random_image(i, (64, 64)) for i in range(4)})
    dataset = open_dataset(DataConfig(path=str(path)))
    content = (path / "2.jpg").read_bytes()
    (path / "2.jpg").write_bytes(content[: len(content) // 2])
    return dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_names_the_damaged_file(damaged: ImageDataset, workers: int) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*/set/2\.jpg: not a readable image [^\n]*$"):
        batches(damaged, 4, cache="stream", workers=workers)


def test_caching_finds_the_damaged_file_before_the_first_batch(damaged: ImageDataset) -> None:
    with pytest.raises(UserError, match=r"/set/2\.jpg: not a readable image"):
        iterator: Iterator[RealBatch] = iterate_batches(
            damaged, seed=0, batch=1, offsets=torch.tensor([0]), start_images=0, device="cpu", mirror=False,
            cache="device", workers=0,
        )  # fmt: skip
        del iterator


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("cache", "workers"), [("device", 0), ("stream", 0), ("stream", 2)])
def test_gpu_equals_cpu(dataset: ImageDataset, cache: str, workers: int) -> None:
    on_gpu = batches(dataset, 70, device="cuda", cache=cache, workers=workers)
    on_cpu = [RealBatch(b.images.cpu(), None if b.labels is None else b.labels.cpu()) for b in on_gpu]
    assert_equal(on_cpu, batches(dataset, 70))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cached_batches_never_wait_for_the_gpu(dataset: ImageDataset) -> None:
    iterator = iterate_batches(
        dataset, seed=0, batch=6, offsets=torch.arange(6), start_images=0, device="cuda", mirror=True,
        cache="device", workers=0,
    )  # fmt: skip
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(islice(iterator, 130))) == 130
    finally:
        torch.cuda.set_sync_debug_mode("default")
