"""`smartfast dataset`: what the .zip holds, and what is refused."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset
from smartfast.data.sources.folder import FolderSource
from smartfast.errors import UserError
from smartfast.tools.dataset import DatasetOptions, convert
from smartfast.tools.fit import fit

pytestmark = pytest.mark.usefixtures("own_cache")

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def read_zip(path: Path) -> tuple[dict[str, Image.Image], Any]:
    """Images by name in the order of the archive, and the labels; read without smartfast."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        names = [name for name in archive.namelist() if name != "dataset.json"]
        images = {}
        for name in names:
            with archive.open(name) as file, Image.open(file) as image:
                assert image.format == "PNG"
                image.load()
                images[name] = image
        return images, json.loads(archive.read("dataset.json"))["labels"]


def test_layout_pixels_and_labels(
    random_image: Maker, write_files: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    originals = {f"{kind}/{i}.png": random_image(i) for i, kind in enumerate(["dog", "cat", "cat", "emu"])}
    dest = tmp_path / "new" / "out.zip"
    convert(DatasetOptions(source=str(write_files(originals)), dest=str(dest)))
    images, labels = read_zip(dest)
    names = [f"00000/img{i:08d}.png" for i in range(4)]
    assert list(images) == names
    assert labels == [[name, label] for name, label in zip(names, [0, 0, 1, 2], strict=True)]
    for name, source in zip(names, sorted(originals), strict=True):
        np.testing.assert_array_equal(np.array(images[name]), np.array(originals[source]))
    assert capsys.readouterr().out == f"{dest}: 4 images 16x16 RGB, 3 classes, 0.0 MiB\n"
    dataset = open_dataset(DataConfig(path=str(dest), labels=True))
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 0, 1, 2]


def test_classes_that_a_training_would_refuse_are_refused(
    random_image: Maker, write_files: Writer, tmp_path: Path
) -> None:
    """Classes keep their numbers, and no training takes one as large as the number of images."""
    source = write_files({f"{kind}/{i}.png": random_image(i) for i, kind in enumerate("abcdef")})
    with pytest.raises(UserError, match="3 images are packed and their labels go up to 4, expected more than 4 images"):
        convert(DatasetOptions(source=str(source), dest=str(tmp_path / "out.zip"), max_images=3))


def test_names_go_on_after_a_thousand_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (1001, 4, 4), dtype=np.uint8))
    convert(DatasetOptions(source=str(tmp_path / "set.npz"), dest=str(tmp_path / "out.zip")))
    images, labels = read_zip(tmp_path / "out.zip")
    assert list(images)[999:] == ["00000/img00000999.png", "00001/img00001000.png"]
    assert labels is None


def test_same_images_give_the_same_file_whatever_the_workers(
    random_image: Maker, write_files: Writer, tmp_path: Path
) -> None:
    source = write_files({f"{i}.jpg": random_image(i, (40, 40)) for i in range(30)})
    for workers in (1, 4):
        convert(DatasetOptions(str(source), str(tmp_path / f"{workers}.zip"), resolution="16", workers=workers))
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "4.zip").read_bytes()


def test_digits_survive_the_round_trip(tmp_path: Path) -> None:
    convert(DatasetOptions("digits", str(tmp_path / "out.zip")))
    packed = open_dataset(DataConfig(path=str(tmp_path / "out.zip"), labels=True))
    original = open_dataset(DataConfig(path="digits", labels=True))
    assert torch.equal(packed.all_images(), original.all_images())
    assert packed.labels is not None and original.labels is not None and torch.equal(packed.labels, original.labels)


@pytest.mark.parametrize("asked", ["auto", "L", "RGB", "RGBA"])
def test_mixed_modes_become_one(asked: Any, random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    grey, colour, clear = random_image(0, mode="L"), random_image(1), random_image(2, mode="RGBA")
    source = write_files({"0.png": grey, "1.png": colour, "2.png": clear})
    convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), mode=asked))
    mode = "RGBA" if asked == "auto" else asked
    images = list(read_zip(tmp_path / "out.zip")[0].values())
    assert {image.mode for image in images} == {mode}
    np.testing.assert_array_equal(np.array(images[0]), np.array(grey.convert(mode)))
    np.testing.assert_array_equal(np.array(images[1]), np.array(colour.convert(mode)))
    if mode == "RGB":
        color, alpha = np.split(np.array(clear, dtype=np.float64), [3], axis=2)
        on_white = color * alpha / 255 + 255 * (1 - alpha / 255)
        np.testing.assert_allclose(np.array(images[2]), on_white, atol=1.01)


def test_auto_mode_of_grey_and_colour_is_colour(random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    source = write_files({"0.png": random_image(0, mode="L"), "1.png": random_image(1)})
    convert(DatasetOptions(str(source), str(tmp_path / "out.zip")))
    assert {image.mode for image in read_zip(tmp_path / "out.zip")[0].values()} == {"RGB"}


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right and green downward, so that pixels tell where they came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=2).round().astype(np.uint8))


def spans(image: Image.Image) -> tuple[float, float]:
    """Ranges of red along the middle row and of green along the middle column."""
    pixels = np.array(image, dtype=float)
    row, column = pixels[image.height // 2, :, 0], pixels[:, image.width // 2, 1]
    return row[-1] - row[0], column[-1] - column[0]


@pytest.mark.parametrize(("crop", "red", "green"), [("center", 127.5, 255), ("adm", 127.5, 255), ("stretch", 255, 255)])
def test_crops_of_a_wide_image(crop: Any, red: float, green: float) -> None:
    image = fit(ramp(256, 128), (64, 64), crop, "x")
    assert image.size == (64, 64)
    np.testing.assert_allclose(spans(image), (red, green), atol=8)
    np.testing.assert_allclose(np.array(image, dtype=float)[31:33, 31:33, :2].mean((0, 1)), 127.5, atol=2)


def test_pad_keeps_the_whole_image_between_black_borders() -> None:
    with pytest.raises(UserError, match="600x1 pixels, expected no such strip with --crop pad"):
        fit(Image.new("RGB", (600, 1)), (64, 64), "pad", "x")
    pixels = np.array(fit(ramp(128, 64).convert("RGB"), (64, 64), "pad", "x"), dtype=float)
    assert pixels[:16].max() == 0 and pixels[48:].max() == 0
    np.testing.assert_allclose(pixels[32, [0, -1], 0], [0, 255], atol=4)


def test_adm_halves_by_averaging() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    truth = pixels.reshape(8, 4, 8, 4).astype(np.float64).mean(axis=(1, 3))
    np.testing.assert_allclose(np.array(fit(Image.fromarray(pixels), (8, 8), "adm", "x")), truth, atol=2.01)


def test_adm_of_sizes_that_do_not_divide() -> None:
    for width, height in ((37, 101), (64, 64), (65, 127), (9, 8)):
        assert fit(ramp(width, height), (32, 32), "adm", "x").size == (32, 32)


def test_rectangles_are_written_with_a_warning(random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    source = write_files({"0.png": random_image(0, (64, 48))})
    with pytest.warns(UserWarning, match="16x12 pixels: training needs squares with a power of two as side"):
        convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), resolution="16x12"))
    assert next(iter(read_zip(tmp_path / "out.zip")[0].values())).size == (16, 12)


def test_max_images_spreads_over_the_set(tmp_path: Path) -> None:
    pixels = np.arange(100, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(100) // 25)
    convert(DatasetOptions(str(tmp_path / "set.npz"), str(tmp_path / "out.zip"), max_images=8))
    images, labels = read_zip(tmp_path / "out.zip")
    assert [image.getpixel((0, 0)) for image in images.values()] == [0, 12, 25, 37, 50, 62, 75, 87]
    assert [label for _, label in labels] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_duplicates_and_enlarged_images_are_reported(
    random_image: Maker, write_files: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_files({"a.png": random_image(0), "b.png": random_image(1), "c.bmp": random_image(0)})
    convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), resolution="32"))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "3 images were smaller than that and have been enlarged",
        f"1 images are exact copies of others, e.g. {source}/c.bmp of {source}/a.png",
    ]


def test_labels_can_be_left_out(random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    source = write_files({"a/0.png": random_image(0), "b/1.png": random_image(1)})
    convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), labels=False))
    assert read_zip(tmp_path / "out.zip")[1] is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dest is no zip": ({"dest": "out.tar"}, "dest: out.tar, expected a file name that ends in .zip"),
    "resolution is no size": ({"resolution": "big"}, "resolution: big, expected N or WxH pixels, e.g. 256 or 256x128"),
    "resolution beyond memory": ({"resolution": "99999"}, "resolution: 99999, expected at most 16384 pixels a side"),
    "resolution zero": ({"resolution": "0"}, "resolution: 0, expected N or WxH pixels, e.g. 256 or 256x128"),
    "crop to no size": ({"crop": "center"}, "resolution: unset with crop center, expected N or WxH pixels"),
    "adm rectangle": ({"crop": "adm", "resolution": "8x4"}, "resolution: 8x4, expected a square with crop adm"),
    "no images wanted": ({"max_images": 0}, "max_images is 0, expected a whole number from 1"),
    "no workers": ({"workers": -1}, "workers is -1, expected a whole number from 1"),
    "missing source": ({"source": "nowhere"}, "data.path: nowhere does not exist, expected digits, a folder"),
    "sizes differ": ({}, "SET/b.png: 32x16 pixels, expected 16x16 as the first (or --resolution)"),
    "shapes differ": (
        {"resolution": "8"},
        "SET/b.png: 32x16 pixels, another shape than 8x8, expected the same shape (or --crop center, pad or stretch)",
    ),
    "damaged image": (
        {"resolution": "8", "crop": "center", "source": "damaged"},
        "DAMAGED/c.jpg: not a readable image (",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    source = write_files(
        {"a.png": random_image(0), "b.png": random_image(1, (32, 16)), "c.jpg": random_image(2, (64, 64))}
    )
    content = (source / "c.jpg").read_bytes()
    damaged = write_files({"c.jpg": content[: len(content) // 2]}, "damaged")
    options = {"source": str(source), "dest": str(tmp_path / "out.zip")} | changes
    if options["source"] == "damaged":
        options["source"] = str(damaged)
    with pytest.raises(UserError) as refusal, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(DatasetOptions(**options))
    expected = message.replace("SET", str(source)).replace("DAMAGED", str(damaged))
    assert str(refusal.value).startswith(expected) and "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "set"]


def test_labels_are_refused_before_an_image_is_decoded(
    random_image: Maker, write_files: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files({"cat/a.png": random_image(0), "b.png": random_image(1)})
    expected = "b.png: outside of the class folders, expected every image in a folder per class (or --labels false)"
    with monkeypatch.context() as patched, pytest.raises(UserError) as refusal:
        patched.setattr(FolderSource, "_read", lambda *_: pytest.fail("an image is read"))
        convert(DatasetOptions(str(source), str(tmp_path / "out.zip")))
    assert str(refusal.value) == f"{source}/{expected}"
    convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), labels=False))
    assert len(read_zip(tmp_path / "out.zip")[0]) == 2


def test_existing_file_is_replaced_only_when_asked(random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    source, dest = write_files({"a.png": random_image(0)}), tmp_path / "out.zip"
    dest.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"out\.zip exists, expected a new file \(or --overwrite true\)$"):
        convert(DatasetOptions(str(source), str(dest)))
    assert dest.read_bytes() == b"precious"
    convert(DatasetOptions(str(source), str(dest), overwrite=True))
    assert len(read_zip(dest)[0]) == 1


def test_a_zip_can_be_packed_onto_itself(random_image: Maker, write_files: Writer) -> None:
    path = write_files({f"{i}.png": random_image(i, (32, 32)) for i in range(5)}, "set.zip")
    convert(DatasetOptions(str(path), str(path), resolution="16", overwrite=True))
    assert open_dataset(DataConfig(path=str(path))).resolution == 16


def test_interrupted_packing_leaves_nothing(
    random_image: Maker, write_files: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files({f"{i}.png": random_image(i) for i in range(3)})

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smartfast.tools.dataset.fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), resolution="8"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
