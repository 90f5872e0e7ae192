"""Every kind of source gives the images, labels and description that were put in."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def as_tensor(image: Image.Image) -> torch.Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_files_in_class_folders(name: str, mode: str, channels: int, random_image: Maker, write_files: Writer) -> None:
    images = [random_image(i, mode=mode) for i in range(5)]
    names = ["cat/a.png", "cat/deep/b.PNG", "dog/a.png", "dog/z.png", "emu/a.png"]
    path = write_files(dict(zip(names, images, strict=True)), name)
    dataset = open_dataset(DataConfig(path=str(path), resolution=16, labels=True))
    assert (dataset.name, dataset.resolution, dataset.channels, dataset.num_classes) == ("set", 16, channels, 3)
    assert dataset.labels is not None and dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2]
    expected = torch.stack([as_tensor(image) for image in images])
    assert torch.equal(dataset.all_images(), expected)
    assert [dataset[i][1] for i in range(5)] == [0, 0, 1, 1, 2]
    assert torch.equal(dataset[3][0], expected[3])


@pytest.mark.parametrize("name", ["set", "set.zip"])
def test_dataset_json_goes_before_folders(name: str, random_image: Maker, write_files: Writer) -> None:
    labels = [["00000/b.png", 0], ["00000/a.png", 2], ["00001/c.png", 1]]
    files = {key: random_image(i) for i, (key, _) in enumerate(labels)} | {"dataset.json": {"labels": labels}}
    dataset = open_dataset(DataConfig(path=str(write_files(files, name)), labels=True))
    assert dataset.labels is not None and dataset.labels.tolist() == [2, 0, 1]
    assert torch.equal(dataset[1][0], as_tensor(files["00000/b.png"]))


def test_labels_are_ignored_unless_asked_for(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a/0.png": random_image(0), "b/1.png": random_image(1), "dataset.json": b"not json"})
    dataset = open_dataset(DataConfig(path=str(path)))
    assert dataset.labels is None and dataset.num_classes == 0 and dataset[1][1] == 0


@pytest.mark.parametrize("key", ["images", "arr_0"])
@pytest.mark.parametrize(("layout", "channels"), [("NHW", 1), ("NHWC", 1), ("NHWC", 3), ("NHWC", 4), ("NCHW", 3)])
def test_npz(key: str, layout: str, channels: int, tmp_path: Path) -> None:
    truth = np.random.default_rng(0).integers(0, 256, (6, channels, 8, 8), dtype=np.uint8)
    stored = {"NHW": truth[:, 0], "NHWC": truth.transpose(0, 2, 3, 1), "NCHW": truth}[layout]
    np.savez(tmp_path / "set.npz", **{key: stored, "labels": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)})
    dataset = open_dataset(DataConfig(path=str(tmp_path / "set.npz"), labels=True))
    assert (dataset.name, dataset.resolution, dataset.channels, dataset.num_classes) == ("set", 8, channels, 3)
    assert torch.equal(dataset.all_images(), torch.from_numpy(truth))
    assert dataset[4][1] == 1


@pytest.mark.parametrize(("asked", "resolution"), [(None, 8), (16, 16), (32, 32)])
def test_digits(asked: int | None, resolution: int) -> None:
    dataset = open_dataset(DataConfig(path="digits", resolution=asked, labels=True))
    assert (len(dataset), dataset.resolution, dataset.channels, dataset.num_classes) == (1797, resolution, 1, 10)
    assert dataset.all_images().shape == (1797, 1, resolution, resolution)


def test_unusual_modes_become_grey_colour_or_alpha(random_image: Maker, write_files: Writer) -> None:
    grey, colour = random_image(0, mode="L"), random_image(1)
    half = Image.new("L", grey.size, 128)
    cases = {
        "one_bit": (grey.convert("1"), 1, as_tensor(grey.convert("1").convert("L"))),
        "palette": (colour.quantize(256), 3, as_tensor(colour.quantize(256).convert("RGB"))),
        "grey_alpha": (
            Image.merge("LA", (grey, half)),
            4,
            torch.cat([as_tensor(grey).expand(3, -1, -1), as_tensor(half)]),
        ),
    }
    for name, (image, channels, expected) in cases.items():
        dataset = open_dataset(DataConfig(path=str(write_files({"0.png": image}, name))))
        assert dataset.channels == channels, name
        assert torch.equal(dataset[0][0], expected), name


def test_transparent_palette_becomes_rgba(random_image: Maker, write_files: Writer) -> None:
    path = write_files({})
    path.mkdir()
    palette = random_image(1).quantize(16)
    palette.save(path / "0.png", transparency=3)
    dataset = open_dataset(DataConfig(path=str(path)))
    assert dataset.channels == 4
    transparent = torch.from_numpy(np.array(palette) == 3)
    assert torch.equal(dataset[0][0][3] == 0, transparent)


def test_exif_rotation_is_applied(random_image: Maker, write_files: Writer) -> None:
    path = write_files({})
    path.mkdir()
    image = random_image(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path / "0.png", exif=exif)
    dataset = open_dataset(DataConfig(path=str(path)))
    assert torch.equal(dataset[0][0], torch.rot90(as_tensor(image), -1, (1, 2)))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "gif", "tiff"])
def test_formats(suffix: str, random_image: Maker, write_files: Writer) -> None:
    path = write_files({f"0.{suffix}": random_image(0, (8, 8))})
    dataset = open_dataset(DataConfig(path=str(path)))
    with Image.open(path / f"0.{suffix}") as image:
        assert torch.equal(dataset[0][0], as_tensor(image.convert("RGB")))


def test_files_that_are_no_images_are_named_in_a_warning(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"0.png": random_image(0), "notes.txt": b"hello", ".hidden": b"", "dataset.json": {}})
    with pytest.warns(UserWarning, match=r"1 files that are no images are left out, e\.g\. notes\.txt"):
        assert len(open_dataset(DataConfig(path=str(path)))) == 1


def test_no_warning_for_a_plain_set(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"a/0.png": random_image(0), "b/1.png": random_image(1), ".DS_Store": b"x"}, "set.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = open_dataset(DataConfig(path=str(path), labels=True))
    assert (len(dataset), dataset.num_classes) == (2, 2)


def test_classes_without_images_are_named_in_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 4, 4), np.uint8), labels=[1, 3, 3, 1])
    with pytest.warns(UserWarning, match=r"2 of 4 classes have no image, e\.g\. 0"):
        assert open_dataset(DataConfig(path=str(tmp_path / "set.npz"), labels=True)).num_classes == 4


def test_fingerprint_changes_with_everything_that_matters(random_image: Maker, write_files: Writer) -> None:
    def fingerprint(seed: int, size: int, name: str, second_class: str, labels: bool, where: str) -> str:
        files = {
            f"0/{name}.png": random_image(0, (size, size)),
            f"{second_class}/z.png": random_image(seed, (size,) * 2),
        }
        return open_dataset(DataConfig(path=str(write_files(files, where)), labels=labels)).fingerprint

    base = fingerprint(1, 16, "a", "1", True, "base")
    assert base == fingerprint(1, 16, "a", "1", True, "elsewhere")
    others = [
        fingerprint(2, 16, "a", "1", True, "content"),
        fingerprint(1, 8, "a", "1", True, "size"),
        fingerprint(1, 16, "b", "1", True, "name"),
        fingerprint(1, 16, "a", "1", False, "labels"),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize("name", ["set", "set.zip"])
def test_data_set_survives_pickling(name: str, random_image: Maker, write_files: Writer) -> None:
    path = write_files({"0.png": random_image(0), "1.png": random_image(1)}, name)
    dataset = open_dataset(DataConfig(path=str(path)))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy.all_images(), dataset.all_images())
