"""Which images are opened at a start: all at the first one, later only those whose file has changed."""

import errno
import json
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.core.caches import default_cache_dir
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.holdout import split
from smartfast.data.sources.archive import ArchiveSource
from smartfast.data.sources.folder import FolderSource
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]
COUNT = 200


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was opened; those in a .zip under the archive's name."""
    return count_opened(monkeypatch)


def count_opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counter: Counter[str] = Counter()
    lock = threading.Lock()
    reads = {kind: kind._read for kind in (FolderSource, ArchiveSource)}

    def count(source: Any, index: int) -> bytes:
        with lock:
            counter[source.path.name if isinstance(source, ArchiveSource) else Path(source.names[index]).name] += 1
        return reads[type(source)](source, index)

    for kind in reads:
        monkeypatch.setattr(kind, "_read", count)
    return counter


@pytest.fixture
def folder(random_image: Maker, write_files: Writer) -> Path:
    """COUNT images in two folders."""
    return write_files({f"{i % 2}/{i:03d}.png": random_image(i, (8, 8)) for i in range(COUNT)})


def start(path: Path, *, decode: bool = False, **options: Any) -> ImageDataset:
    dataset = open_dataset(DataConfig(path=str(path), **options))
    if decode:
        dataset.all_images()
    return dataset


def index_file() -> Path:
    (found,) = (default_cache_dir() / "index").glob("*.json")
    return found


def test_the_second_start_opens_no_image(folder: Path, opened: Counter[str]) -> None:
    first = start(folder, labels=True)
    assert opened == Counter({f"{i:03d}.png": 1 for i in range(COUNT)})
    opened.clear()
    second = start(folder, labels=True)
    assert not opened
    assert (second.fingerprint, second.resolution, second.channels) == (first.fingerprint, 8, 3)
    assert torch.equal(second[7][0], first[7][0])


def test_other_settings_open_nothing_again(folder: Path, opened: Counter[str]) -> None:
    start(folder)
    opened.clear()
    assert start(folder, labels=True, resolution=8).num_classes == 2
    with pytest.raises(UserError, match=r"0/000\.png: 8x8 pixels, expected 16x16"):
        start(folder, resolution=16)
    assert not opened


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_file_is_opened_alone(change: str, folder: Path, opened: Counter[str], random_image: Maker) -> None:
    before = start(folder).fingerprint
    opened.clear()
    path, state = folder / "1" / "003.png", (folder / "1" / "003.png").stat()
    if change == "time":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    else:
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (start(folder).fingerprint == before) == (change == "time")
    assert opened == Counter({"003.png": 1})
    opened.clear()
    start(folder)
    assert not opened


def test_added_and_removed_files(folder: Path, opened: Counter[str], random_image: Maker) -> None:
    start(folder)
    opened.clear()
    (folder / "0" / "004.png").unlink()
    assert len(start(folder)) == COUNT - 1
    assert not opened
    random_image(1000, (8, 8)).save(folder / "0" / "0005.png")
    after = start(folder)
    assert opened == Counter({"0005.png": 1})
    assert (default_cache_dir() / "index").is_dir()
    index_file().unlink()
    assert start(folder).fingerprint == after.fingerprint


def test_archive(random_image: Maker, write_files: Writer, opened: Counter[str]) -> None:
    path = write_files({f"{i}.png": random_image(i) for i in range(5)}, "set.zip")
    fingerprint = start(path).fingerprint
    assert opened["set.zip"] == 5
    opened.clear()
    assert start(path).fingerprint == fingerprint and not opened
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("5.png", archive.read("0.png"))
    opened.clear()
    assert len(start(path)) == 6 and opened["set.zip"] == 6  # one file, which has changed


def test_a_bad_image_is_named_at_every_start(folder: Path, opened: Counter[str]) -> None:
    good = (folder / "1" / "151.png").read_bytes()
    (folder / "1" / "151.png").write_bytes(good[:50])
    for _ in range(2):
        opened.clear()
        with pytest.raises(UserError, match=r"1/151\.png: not a readable image"):
            start(folder)
        assert opened["151.png"] == 1
    assert opened["000.png"] == 0, "what the first start found before the bad image is kept"
    (folder / "1" / "151.png").write_bytes(good)
    opened.clear()
    start(folder)
    assert opened["151.png"] == 1 and opened["001.png"] == 0
    assert max(opened.values()) == 1


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-100],
    "not JSON": lambda content: b"\x80\x04K\x01.",
    "a list": lambda content: b"[1, 2]",
    "another format": lambda content: json.dumps(json.loads(content) | {"format": 999}).encode(),
    "another place": lambda content: json.dumps(json.loads(content) | {"place": "/elsewhere"}).encode(),
    "rows that are no rows": lambda content: json.dumps(json.loads(content) | {"images": [["a", 1], 2]}).encode(),
    "a mode that is none": lambda content: content.replace(b'"RGB"', b'"XYZ"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unusable_index_is_made_anew(damage: str, folder: Path, opened: Counter[str]) -> None:
    fingerprint = start(folder).fingerprint
    index_file().write_bytes(DAMAGE[damage](index_file().read_bytes()))
    opened.clear()
    with pytest.warns(UserWarning, match="made anew") as caught:
        assert start(folder).fingerprint == fingerprint
    assert len(caught) == 1 and str(index_file()) in str(caught[0].message)
    assert sum(opened.values()) == COUNT
    opened.clear()
    start(folder)
    assert not opened


def test_without_a_cache_folder_the_run_goes_on(
    folder: Path, opened: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SMARTFAST_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="SMARTFAST_CACHE") as caught:
        assert len(start(folder)) == COUNT
    assert len(caught) == 1
    assert sum(opened.values()) == COUNT


def test_a_full_cache_folder_costs_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        assert len(start(folder)) == COUNT
    assert len(caught) == 1
    left = [path.name for path in (default_cache_dir() / "index").iterdir() if path.suffix != ".lock"]
    assert left == [], "no part of a file is left behind"


FINGERPRINTS = {
    ("set.zip", False): "020932e31fa60a4c",
    ("set.zip", True): "f369d998ce1b9cdb",
    ("set.npz", False): "f6eac3a0450e1485",
    ("set.npz", True): "fa6f14fd4ff6db7e",
}
"""Of the images below, computed by commit 8615a17: checkpoints of then hold such, of an .npz with its name."""
FINGERPRINTS_OF_ENDS = {("set", False): "3e984030d2e465d9", ("set", True): "cebf02627af8b949"}
"""The same of a folder, of which then only the first and last 4 KiB of each file counted."""


def numbered_set(name: str, write_files: Writer) -> Path:
    pixels = [bytes((i * 37 + j * 11) % 256 for j in range(64 * 64 * 3)) for i in range(6)]
    files = {f"{i % 2}/{i}.ppm": b"P6\n64 64\n255\n" + content for i, content in enumerate(pixels)}
    if name == "set.npz":
        path = write_files({"unused.txt": b""}, "folder").with_name(name)
        images = np.stack([np.frombuffer(content, np.uint8).reshape(64, 64, 3) for content in pixels])
        np.savez(path, images=images, labels=[0, 1] * 3)
    else:
        path = write_files(dict(sorted(files.items())), name)
    return path


@pytest.mark.parametrize(("name", "labels"), FINGERPRINTS)
def test_fingerprints_are_those_that_checkpoints_hold(name: str, labels: bool, write_files: Writer) -> None:
    path = numbered_set(name, write_files)
    for _ in range(2):  # inspected, and from the index
        dataset = start(path, labels=labels)
        assert dataset.was_recorded_as(FINGERPRINTS[name, labels])
        assert not dataset.was_recorded_as(FINGERPRINTS[name, not labels])
        assert (dataset.fingerprint == FINGERPRINTS[name, labels]) == (name == "set.zip")


def test_the_name_of_a_file_of_arrays_is_no_part_of_its_fingerprint(write_files: Writer) -> None:
    path = numbered_set("set.npz", write_files)
    recorded = start(path, labels=True).fingerprint
    renamed = start(path.rename(path.with_name("renamed.npz")), labels=True)
    assert renamed.fingerprint == recorded
    assert not renamed.was_recorded_as(FINGERPRINTS["set.npz", True]), "which has the old name in it"


@pytest.mark.parametrize(("name", "labels"), FINGERPRINTS_OF_ENDS)
def test_runs_recorded_by_the_ends_of_files_are_known_again(name: str, labels: bool, write_files: Writer) -> None:
    path = numbered_set(name, write_files)
    dataset = start(path, labels=labels)
    assert dataset.fingerprint == FINGERPRINTS["set.zip", labels]
    assert dataset.was_recorded_as(FINGERPRINTS_OF_ENDS[name, labels])
    assert dataset.was_recorded_as(dataset.fingerprint)
    assert not start(path, labels=not labels).was_recorded_as(FINGERPRINTS_OF_ENDS[name, labels])
    with (path / "0" / "0.ppm").open("r+b") as file:
        file.seek(20)
        file.write(b"other")
    assert not start(path, labels=labels).was_recorded_as(FINGERPRINTS_OF_ENDS[name, labels])


def test_decoded_images_are_kept(folder: Path, opened: Counter[str], random_image: Maker) -> None:
    images = start(folder).all_images()
    assert set(opened.values()) == {2}  # once to inspect and once to decode
    opened.clear()
    assert torch.equal(start(folder).all_images(), images)
    assert not opened
    replaced = random_image(999, (8, 8))
    replaced.save(folder / "0" / "010.png")
    os.utime(folder / "0" / "010.png", ns=(1, 1))
    after = start(folder).all_images()
    assert opened == Counter({"010.png": 2})
    assert torch.equal(after[5], torch.from_numpy(np.array(replaced)).movedim(2, 0))
    assert torch.equal(after[:5], images[:5]) and torch.equal(after[6:], images[6:])
    (folder / "0" / "000.png").unlink()
    opened.clear()
    assert torch.equal(start(folder).all_images(), after[1:])
    assert not opened


@pytest.mark.parametrize("damage", ["cut off", "a pixel"])
def test_damaged_decoded_images_are_decoded_again(damage: str, folder: Path, opened: Counter[str]) -> None:
    images = start(folder).all_images()
    (kept,) = (default_cache_dir() / "index").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-COUNT * 8 * 8] ^= 1
    kept.write_bytes(content if damage == "a pixel" else content[:-9])
    opened.clear()
    with pytest.warns(UserWarning, match="made anew") as caught:
        assert torch.equal(start(folder).all_images(), images)
    assert len(caught) == 1 and set(opened.values()) == {1}
    opened.clear()
    assert torch.equal(start(folder).all_images(), images) and not opened


def test_decoded_images_take_a_bounded_part_of_the_disk(
    random_image: Maker, write_files: Writer, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from smartfast.data import decoded

    one = 8 * 8 * 3 * 4  # bytes of the images of a set
    sets = [write_files({f"{i}.png": random_image(10 * k + i, (8, 8)) for i in range(4)}, f"set{k}") for k in range(3)]
    monkeypatch.setattr(decoded, "LIMIT_BYTES", 2 * one + one // 2)
    for path in sets:
        start(path, decode=True)
        for file in (default_cache_dir() / "index").glob("*.safetensors"):
            os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 10**9))  # as time goes by
    opened.clear()
    start(sets[2], decode=True)
    start(sets[1], decode=True)
    assert not opened
    start(sets[0], decode=True)
    assert sum(opened.values()) == 4, "the one unused for longest made room"
    monkeypatch.setattr(decoded, "LIMIT_BYTES", one - 1)
    for file in (default_cache_dir() / "index").glob("*.safetensors"):
        file.unlink()
    with pytest.warns(UserWarning, match="every process decodes them at every start"):
        start(sets[0], decode=True)
    assert not list((default_cache_dir() / "index").glob("*.safetensors"))


@pytest.mark.parametrize("failing", ["utime", "mkdir"])
def test_a_complete_cache_that_cannot_be_written_is_used(
    failing: str, folder: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(folder, decode=True)
    opened.clear()

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, failing, refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(folder, decode=True)
    assert not opened


def test_parts_of_a_data_set_share_its_decoded_images(folder: Path, opened: Counter[str]) -> None:
    dataset = start(folder, labels=True)
    whole = torch.stack([dataset.image(index) for index in range(COUNT)])
    training, held_out = split(dataset, 20)
    assert held_out is not None
    opened.clear()
    assert torch.equal(held_out.all_images(), whole[held_out.indices])
    assert len(opened) == 20, "a small part does not decode the whole"
    assert torch.equal(training.all_images(), whole[training.indices])
    opened.clear()
    assert torch.equal(split(start(folder), 20)[0].all_images(), whole[training.indices])
    assert not opened


def work(path: Path, out: Path) -> None:
    """One of two processes of a run: opens the data set and takes its images, and writes what it opened."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    dist.barrier()
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = count_opened(monkeypatch)
        dataset = start(path, labels=True)
        images = dataset.all_images()
    found = {"opened": opened, "fingerprint": dataset.fingerprint, "sum": int(images.long().sum())}
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an interpreter that ends on a busy machine (pytorch #179291)


@pytest.mark.slow
def test_two_processes_open_each_image_once(folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    totals = []
    for _ in range(2):
        subprocess.run([*launcher, __file__, str(folder), str(tmp_path)], check=True, timeout=120)
        found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        assert found[0]["fingerprint"] == found[1]["fingerprint"] and found[0]["sum"] == found[1]["sum"]
        totals.append(sum((Counter(process["opened"]) for process in found), Counter()))
    assert totals[0] == Counter({f"{i:03d}.png": 2 for i in range(COUNT)})  # once to inspect, once to decode
    assert not totals[1]


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
