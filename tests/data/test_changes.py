"""The fingerprint of a data set: it changes with every pixel, and with nothing else than the data."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]
UNCOMPRESSED = ["bmp", "ppm", "tiff", "png"]
SIDE = 64


def opened(path: Path) -> ImageDataset:
    return open_dataset(DataConfig(path=str(path)))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, **({"compress_level": 0} if path.suffix == ".png" else {}))


EDITS: dict[str, Callable[[Path, Path], None]] = {
    "in place": lambda path, new: path.open("r+b").write(new.read_bytes()) and None,
    "replaced by another file": lambda path, new: os.replace(shutil.copy2(new, path.with_name("new.tmp")), path),
}


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("suffix", UNCOMPRESSED)
def test_an_edit_in_the_middle_of_a_file(suffix: str, edit: str, keep_time: bool, tmp_path: Path) -> None:
    """The size stays, the first and last 4 KiB stay, and in the worst case the time of change stays too."""
    folder = tmp_path / "set"
    folder.mkdir()
    path, new = folder / f"3.{suffix}", tmp_path / f"new.{suffix}"
    for i in range(6):
        save(picture(i), folder / f"{i}.{suffix}")
    before, images, state = opened(folder).fingerprint, opened(folder).all_images(), path.stat()
    changed = picture(3)
    changed[30:34] = 0
    save(changed, new)
    assert new.stat().st_size == state.st_size
    EDITS[edit](path, new)
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = opened(folder)
    assert after.fingerprint != before
    assert torch.equal(after.all_images()[3], torch.from_numpy(changed).movedim(2, 0))
    assert torch.equal(after.all_images()[:3], images[:3])
    save(picture(3), path)
    assert opened(folder).fingerprint == before


@pytest.mark.parametrize("position", range(0, 12, 2))
def test_one_bit_anywhere(position: int, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pixels = picture(0)
    save(pixels, folder / "0.bmp")
    before = opened(folder).fingerprint
    pixels.reshape(-1)[position * pixels.size // 12] ^= 1
    save(pixels, folder / "0.bmp")
    assert opened(folder).fingerprint != before


def test_the_same_data_elsewhere_count_as_the_same(
    write_files: Writer, random_image: Callable[..., Image.Image]
) -> None:
    """Copied without its times, under another name, or packed as it is: nothing of the pixels has changed."""
    folder = write_files({f"{i % 2}/{i}.png": random_image(i) for i in range(4)})
    before = opened(folder).fingerprint
    shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    with zipfile.ZipFile(folder.with_name("packed.zip"), "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    for file in folder.rglob("*.png"):
        os.utime(file)
    for place in ("set", "copy", "packed.zip"):
        assert opened(folder.with_name(place)).fingerprint == before
