"""Every kind of bad data set is refused before training, with one line that says what is wrong where."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]
ASKS_LABELS: dict[str, Any] = {"labels": True}
ALIKE = "; `smartfast dataset` makes images alike"


def png(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> tuple[int, tuple[int, int], str]:
    """Stands for the image that the test makes of it."""
    return seed, size, mode


def two(**extra: Any) -> dict[str, Any]:
    return {"a.png": png(0), "b.png": png(1), "dataset.json": extra}


FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "empty folder": ({"notes.txt": b"hello"}, {}, "data.path: SET holds no image, expected files ."),
    "text in a png": ({"a.png": png(0), "b.png": b"hello"}, {}, "SET/b.png: not a readable image (of no format"),
    "empty png": ({"a.png": b"", "b.png": png(0)}, {}, "SET/a.png: not a readable image (of no format"),
    "wrong size": (
        {"a.png": png(0), "b.png": png(1, (8, 8))},
        {},
        "SET/b.png: 8x8 pixels, expected 16x16 as the first image" + ALIKE,
    ),
    "not the asked size": (
        {"a.png": png(0)},
        {"resolution": 32},
        "SET/a.png: 16x16 pixels, expected 32x32 (data.resolution)" + ALIKE,
    ),
    "not square": (
        {"a.png": png(0, (16, 8)), "b.png": png(1, (16, 8))},
        {},
        "SET/a.png: 16x8 pixels, expected a square image" + ALIKE,
    ),
    "not a power of two": (
        {"a.png": png(0, (24, 24))},
        {},
        "SET/a.png: 24 pixels, expected a power of two from 4 up" + ALIKE + " (--resolution 32)",
    ),
    "too small": (
        {"a.png": png(0, (2, 2))},
        {},
        "SET/a.png: 2 pixels, expected a power of two from 4 up" + ALIKE + " (--resolution 4)",
    ),
    "28 pixels, as MNIST": (
        {"a.png": png(0, (28, 28))},
        {},
        "SET/a.png: 28 pixels, expected a power of two from 4 up" + ALIKE + " (--resolution 32)",
    ),
    "bad resolution asked": (
        {"a.png": png(0)},
        {"resolution": 20},
        "data.resolution: 20 pixels, expected a power of two from 4 up" + ALIKE + " (--resolution 32)",
    ),
    "grey among colour": (
        {"a.png": png(0), "b.png": png(1, mode="L")},
        {},
        "SET/b.png: L image, expected RGB as the first image" + ALIKE,
    ),
    "alpha among colour": (
        {"a.png": png(0), "b.png": png(1, mode="RGBA")},
        {},
        "SET/b.png: RGBA image, expected RGB as the first image" + ALIKE,
    ),
    "16-bit grey": (
        {"a.png": Image.fromarray(np.full((16, 16), 999, np.uint16))},
        {},
        "SET/a.png: pixels of mode I;16, expected 8 bits per channel",
    ),
    "float image": (
        {"a.tiff": Image.fromarray(np.ones((16, 16), np.float32))},
        {},
        "SET/a.tiff: pixels of mode F, expected 8 bits per channel",
    ),
    "no labels": (
        {"a.png": png(0), "b.png": png(1)},
        ASKS_LABELS,
        "data.labels: true, but set has no labels, expected sub-folders or dataset.json",
    ),
    "null labels": (
        {"0/a.png": png(0), "1/b.png": png(1), "dataset.json": {"labels": None}},
        ASKS_LABELS,
        "data.labels: true, but set has no labels, expected sub-folders or dataset.json",
    ),
    "image beside the class folders": (
        {"cat/a.png": png(0), "b.png": png(1)},
        ASKS_LABELS,
        "SET/b.png: outside of the class folders, expected every image in a folder per class",
    ),
    "one class": (
        {"cat/a.png": png(0), "cat/b.png": png(1)},
        ASKS_LABELS,
        "data.labels: true, but all images of set are of one class, expected at least 2",
    ),
    "too few labels": (
        two(labels=[["a.png", 0]]),
        ASKS_LABELS,
        "SET/dataset.json: 1 labels for 2 images, none for b.png, expected all",
    ),
    "too many labels": (
        two(labels=[["a.png", 0], ["b.png", 1], ["c.png", 1]]),
        ASKS_LABELS,
        "SET/dataset.json: 3 labels for 2 images, c.png is not there, expected all",
    ),
    "image labelled twice": (
        two(labels=[["a.png", 0], ["b.png", 1], ["a.png", 1]]),
        ASKS_LABELS,
        "SET/dataset.json: 1 images are listed twice, expected one label per image",
    ),
    "negative label": (
        two(labels=[["a.png", 0], ["b.png", -1]]),
        ASKS_LABELS,
        "SET/b.png: label -1, expected a whole number from 0 to less than the number of images (2)",
    ),
    "label out of range": (
        two(labels=[["a.png", 7], ["b.png", 1]]),
        ASKS_LABELS,
        "SET/a.png: label 7, expected a whole number from 0 to less than the number of images (2)",
    ),
    "fractional label": (two(labels=[["a.png", 0.5], ["b.png", 1]]), ASKS_LABELS, "SET/a.png: label 0.5, expected"),
    "vectors of several lengths": (
        two(labels=[["a.png", [1, 0]], ["b.png", [0]]]),
        ASKS_LABELS,
        "SET/b.png: label [0], expected a list of 2 finite numbers as the first image's",
    ),
    "label file without labels": (
        two(classes=[1, 2]),
        ASKS_LABELS,
        'SET/dataset.json: not a label file (KeyError), expected {"labels": [["image.png", 3], ...]}',
    ),
    "label file that is a list": (
        {"a.png": png(0), "dataset.json": [1]},
        ASKS_LABELS,
        "SET/dataset.json: not a label file (TypeError)",
    ),
    "label file that is not JSON": (
        {"a.png": png(0), "dataset.json": b"{"},
        ASKS_LABELS,
        "SET/dataset.json: not a label file (JSONDecodeError)",
    ),
}  # fmt: skip


def assert_refused(config: DataConfig, start: str) -> None:
    with pytest.raises(UserError) as refusal, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_dataset(config)
    message = str(refusal.value)
    assert message.startswith(start)
    assert "\n" not in message and "expected" in message


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize("case", FOLDERS)
def test_files(case: str, name: str, random_image: Maker, write_files: Writer) -> None:
    files, options, message = FOLDERS[case]
    made = {key: random_image(*value) if isinstance(value, tuple) else value for key, value in files.items()}
    path = write_files(made, name)
    assert_refused(DataConfig(path=str(path), **options), message.replace("SET", str(path)))


def images(*shape: int, dtype: type = np.uint8) -> dict[str, Any]:
    return {"images": np.zeros(shape, dtype)}


ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "wrong names": ({"x": np.zeros(3), "y": np.zeros(3)}, {}, "SET: arrays x, y, expected images or arr_0"),
    "floats": (images(5, 8, 8, dtype=np.float32), {}, "SET: images is float32 [5, 8, 8], expected uint8"),
    "two channels": (images(5, 8, 8, 2), {}, "SET: images is uint8 [5, 8, 8, 2], expected uint8"),
    "two dimensions": (images(5, 8), {}, "SET: images is uint8 [5, 8], expected uint8"),
    "no image": (images(0, 8, 8), {}, "SET: images is uint8 [0, 8, 8], expected at least one image"),
    "not square": (images(5, 8, 16), {}, "SET: image 0: 16x8 pixels, expected a square image"),
    "not the asked size": (images(5, 8, 8), {"resolution": 16}, "SET: image 0: 8x8 pixels, expected 16x16"),
    "no labels": (images(5, 8, 8), ASKS_LABELS, "data.labels: true, but set has no labels"),
    "too few labels": (
        images(5, 8, 8) | {"labels": [0, 1, 0, 1]},
        ASKS_LABELS,
        "set: 4 labels for 5 images, expected one per image",
    ),
    "negative label": (images(2, 8, 8) | {"labels": [0, -3]}, ASKS_LABELS, "SET: image 1: label -3, expected a whole"),
    "label out of range": (images(2, 8, 8) | {"labels": [0, 2]}, ASKS_LABELS, "SET: image 1: label 2, expected"),
    "fractional label": (images(2, 8, 8) | {"labels": [0.0, 1.0]}, ASKS_LABELS, "SET: image 0: label 0.0, expected"),
    "labels that are matrices": (
        images(2, 8, 8) | {"labels": np.eye(2)[:, :, None]},
        {},
        "SET: labels of shape [2, 2, 1], expected a whole number, or a vector, per image",
    ),
    "pickled objects": ({"images": np.array([{}, None])}, {}, "data.path: SET is not a readable .npz (Object arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARRAYS)
def test_npz(case: str, tmp_path: Path) -> None:
    arrays, options, message = ARRAYS[case]
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    assert_refused(DataConfig(path=str(path), **options), message.replace("SET", str(path)))


FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing path": ("nothing", None, "data.path: SET does not exist, expected digits, a folder, .zip, .npz, CIFAR's"),
    "missing zip": ("nothing.zip", None, "data.path: SET does not exist, expected digits, a folder"),
    "unknown kind": ("set.tar", b"x", "data.path: SET is of no known kind, expected digits, a folder"),
    "not a zip": ("set.zip", b"hello", "data.path: SET is not a readable .zip (File is not a zip file), expected"),
    "not an npz": ("set.npz", b"hello", "data.path: SET is not a readable .npz ("),
    "empty npz": ("set.npz", b"", "data.path: SET is not a readable .npz ("),
    "truncated npz": ("set.npz", b"PK\3\4hello", "data.path: SET is not a readable .npz ("),
}


@pytest.mark.parametrize("case", FILES)
def test_path(case: str, tmp_path: Path) -> None:
    name, content, message = FILES[case]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert_refused(DataConfig(path=str(path)), message.replace("SET", str(path)))


@pytest.mark.parametrize("resolution", [4, 20])
def test_digits_resolution(resolution: int) -> None:
    assert_refused(DataConfig(path="digits", resolution=resolution), f"data.resolution: {resolution}")


def test_negative_workers() -> None:
    assert_refused(DataConfig(workers=-1), "data.workers: -1, expected 0 or more")


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_truncated_png_is_found_by_its_checksums(kept: float, random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a.png": random_image(0), "b.png": random_image(1)})
    content = (path / "b.png").read_bytes()
    (path / "b.png").write_bytes(content[: int(kept * len(content))])
    assert_refused(DataConfig(path=str(path)), f"{path}/b.png: not a readable image (")


def test_flipped_bits_in_a_png(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a.png": random_image(0)})
    content = bytearray((path / "a.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (path / "a.png").write_bytes(content)
    assert_refused(DataConfig(path=str(path)), f"{path}/a.png: not a readable image (")


def test_corrupt_zip_entry(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a.png": random_image(0), "b.png": random_image(1)}, "set.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"b.png") + 200] ^= 0xFF
    path.write_bytes(content)
    assert_refused(DataConfig(path=str(path)), f"{path}/b.png: corrupt entry (Bad CRC-32")


def test_unreadable_file(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a.png": random_image(0)})
    (path / "b.png").symlink_to(path / "gone.png")
    assert_refused(DataConfig(path=str(path)), f"{path}/b.png: cannot be read (No such file or directory), expected")


def test_unreadable_label_file(random_image: Maker, write_files: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files({"a.png": random_image(0), "dataset.json": {"labels": [["a.png", 0]]}})
    read = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file.name == "dataset.json":
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = f"{path}/dataset.json: cannot be read (Permission denied), expected a label file that can be read"
    assert_refused(DataConfig(path=str(path), labels=True), message)


def test_the_first_of_several_bad_files_is_named(random_image: Maker, write_files: Writer) -> None:
    files = {f"{i:03d}.png": random_image(i, (8, 8) if i % 40 == 37 else (16, 16)) for i in range(120)}
    with pytest.raises(UserError, match=re.escape("/037.png: 8x8 pixels")):
        open_dataset(DataConfig(path=str(write_files(files))))
