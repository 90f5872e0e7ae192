"""`smartfast dataset` on data with faults, on published archives, and where nothing can be written."""

import errno
import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.cli import main
from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset
from smartfast.errors import UserError
from smartfast.tools.dataset import DatasetOptions, convert

pytestmark = pytest.mark.usefixtures("own_cache")

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def packed(source: Path, dest: Path, **options: Any) -> ImageDataset:
    convert(DatasetOptions(str(source), str(dest), **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_dataset(DataConfig(path=str(dest), labels=options.get("labels", True)))


@pytest.mark.parametrize(("alpha", "channels"), [(255, 3), (254, 4)])
def test_alpha_that_is_opaque_everywhere_does_not_count(
    alpha: int, channels: int, random_image: Maker, write_files: Writer, tmp_path: Path
) -> None:
    images = [random_image(i) for i in range(4)]
    veiled = images[2].copy()
    veiled.putalpha(255)
    veiled.putpixel((3, 3), (1, 2, 3, alpha))
    source = write_files({f"{i}.png": image for i, image in enumerate([*images[:2], veiled, images[3]])})
    dataset = packed(source, tmp_path / "out.zip", labels=False)
    assert dataset.channels == channels
    assert torch.equal(dataset.image(3)[:3], torch.from_numpy(np.array(images[3])).movedim(2, 0))


@pytest.fixture
def with_bad(random_image: Maker, write_files: Writer) -> Path:
    """Twelve images of two classes, three of which are bad."""
    folder = write_files({f"{'ab'[i % 2]}/{i:02d}.png": random_image(i) for i in range(12)})
    for name in ("a/04.png", "b/03.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:70])
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(folder / "a/06.png")
    return folder


def test_all_bad_images_are_named(with_bad: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        convert(DatasetOptions(str(with_bad), str(tmp_path / "out.zip")))
    line = str(refusal.value)
    assert line.startswith(f"{with_bad}/a/04.png: not a readable image (") and "\n" not in line
    assert f"3 of 12 images are bad: {with_bad}/a/04.png, {with_bad}/a/06.png, {with_bad}/b/03.png" in line
    assert line.endswith("--skip_bad true leaves them out")
    assert not (tmp_path / "out.zip").exists()


def test_of_many_bad_images_the_first_are_named_and_all_counted(write_files: Writer, tmp_path: Path) -> None:
    source = write_files({f"{i:03d}.png": b"bad" for i in range(100)})
    with pytest.raises(UserError, match=r"100 of 100 images are bad: .*000\.png.* and 90 more") as refusal:
        convert(DatasetOptions(str(source), str(tmp_path / "out.zip")))
    assert "009.png" in str(refusal.value) and "010.png" not in str(refusal.value)


def test_bad_images_can_be_left_out(with_bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = packed(with_bad, tmp_path / "out.zip", skip_bad=True)
    out = capsys.readouterr().out
    assert dataset.labels is not None and dataset.labels.tolist() == [0] * 4 + [1] * 5
    lines = out.splitlines()
    assert lines[1] == "3 images are bad and left out:"
    assert [line.strip().split(": ")[0] for line in lines[2:5]] == [
        f"{with_bad}/{name}" for name in ("a/04.png", "a/06.png", "b/03.png")
    ]


def test_only_bad_images_are_refused_all_the_same(write_files: Writer, tmp_path: Path) -> None:
    source = write_files({f"{i}.png": b"bad" for i in range(3)})
    with pytest.raises(UserError, match="3 of 3 images are bad"):
        convert(DatasetOptions(str(source), str(tmp_path / "out.zip"), skip_bad=True))


def test_class_names_and_gaps_are_kept(
    random_image: Maker, write_files: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_files({f"{kind}/0.png": random_image(i) for i, kind in enumerate(["2", "10", "cat"])})
    assert packed(source, tmp_path / "out.zip").class_names == ("2", "10", "cat")
    labels = [[f"{i}.png", 5 * (i % 2)] for i in range(6)]
    files = {f"{i}.png": random_image(i) for i in range(6)} | {"dataset.json": {"labels": labels}}
    capsys.readouterr()
    dataset = packed(write_files(files, "gaps"), tmp_path / "gaps.zip")
    assert "RGB, 6 classes (4 of them without an image, e.g. 1), " in capsys.readouterr().out
    assert (dataset.num_classes, dataset.class_names) == (6, None)


def test_later_frames_are_said(random_image: Maker, write_files: Writer, tmp_path: Path) -> None:
    frames = io.BytesIO()
    random_image(0).save(frames, "GIF", save_all=True, append_images=[random_image(1)])
    with pytest.warns(UserWarning, match="1 images have several frames, of which the first is taken"):
        dataset = packed(write_files({"0.gif": frames.getvalue()}), tmp_path / "out.zip", labels=False)
    assert len(dataset) == 1


def tar(path: Path, folder: str, members: dict[str, Any], protocol: int) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            data = pickle.dumps(content, protocol)
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(params=[2, 4, 5], ids=lambda protocol: f"pickle {protocol}")
def cifar(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], tuple[Path, np.ndarray, list[int]]]:
    """Writes a small archive as those of CIFAR-10 and -100; returns it with its training images and labels."""

    def write(classes: int) -> tuple[Path, np.ndarray, list[int]]:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        labels = [i % classes for i in range(20)]
        test = {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8)}
        names = [f"kind {i}".encode() for i in range(classes)]
        if classes == 10:
            members: dict[str, Any] = {
                "test_batch": test | {b"labels": [0] * 4},
                "batches.meta": {b"label_names": names},
            }
            for i in range(5):
                part = slice(4 * i, 4 * i + 4)
                members[f"data_batch_{i + 1}"] = {b"data": pixels[part], b"labels": labels[part]}
            folder = "cifar-10-batches-py"
        else:
            train = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [0] * 20}
            members = {"meta": {b"fine_label_names": names}, "test": test | {b"fine_labels": [0] * 4}, "train": train}
            folder = "cifar-100-python"
        return tar(tmp_path / f"{folder}.tar.gz", folder, members, request.param), pixels, labels

    return write


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(classes: int, cifar: Any, tmp_path: Path) -> None:
    path, pixels, labels = cifar(classes)
    dataset = packed(path, tmp_path / "out.zip")
    assert torch.equal(dataset.all_images(), torch.from_numpy(pixels.reshape(20, 3, 32, 32)))
    assert dataset.labels is not None and dataset.labels.tolist() == labels
    assert dataset.class_names == tuple(f"kind {i}" for i in range(min(classes, 20)))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", {"data_batch_1": {b"data": Bad()}}, 2)
    with pytest.raises(UserError, match="is no readable CIFAR archive"):
        packed(path, tmp_path / "out.zip")
    assert not (tmp_path / "ran").exists()


ARCHIVES = {"no tar": b"hello", "empty": b"", "gzip of nothing": gzip.compress(b""), "cut off": b"\x1f\x8b\x08\0\0\0\0"}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_are_none(case: str, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz").write_bytes(ARCHIVES[case])
    with pytest.raises(UserError, match=r"^data\.path: .*set\.tar\.gz is no readable CIFAR archive .*expected"):
        packed(tmp_path / "set.tar.gz", tmp_path / "out.zip")


def test_a_tar_of_something_else(tmp_path: Path) -> None:
    tar(tmp_path / "set.tar.gz", "photos", {"a.png": 1}, 4)
    with pytest.raises(UserError, match="is no readable CIFAR archive .*data_batch_1"):
        packed(tmp_path / "set.tar.gz", tmp_path / "out.zip")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped_labels", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images.idx3-ubyte"])
def test_mnist(name: str, zipped: bool, zipped_labels: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    of_labels = name.replace("images", "labels").replace("idx3", "idx1")
    images_file, labels_file = (
        tmp_path / (f"{file}.gz" if wanted else file) for file, wanted in ((name, zipped), (of_labels, zipped_labels))
    )
    images_file.write_bytes(gzip.compress(idx(pixels)) if zipped else idx(pixels))
    labels_file.write_bytes(gzip.compress(idx(labels)) if zipped_labels else idx(labels))
    dataset = packed(images_file, tmp_path / "out.zip", resolution="32")
    assert (len(dataset), dataset.resolution, dataset.channels, dataset.num_classes) == (20, 32, 1, 10)
    assert dataset.labels is not None and dataset.labels.tolist() == labels.tolist()
    with zipfile.ZipFile(tmp_path / "out.zip") as archive, Image.open(archive.open("00000/img00000007.png")) as image:
        enlarged = Image.fromarray(pixels[7]).resize((32, 32), Image.Resampling.LANCZOS)
        assert np.array_equal(np.array(image), np.array(enlarged))


IDX = {
    "too short": idx(np.zeros((3, 8, 8), np.uint8))[:-1],
    "too long": idx(np.zeros((3, 8, 8), np.uint8)) + b"x",
    "labels": idx(np.zeros(3, np.uint8)),
    "floats": b"\0\0\x0d\x03" + bytes(12),
    "empty": b"",
    "no gzip": b"hello",
}


@pytest.mark.parametrize("case", IDX)
def test_idx_files_that_are_none(case: str, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte" + (".gz" if case == "no gzip" else "")
    (tmp_path / name).write_bytes(IDX[case])
    with pytest.raises(UserError, match=r"^data\.path: .*idx3-ubyte.* is no readable idx file .*expected"):
        packed(tmp_path / name, tmp_path / "out.zip")


def test_mnist_without_labels(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 8, 8), np.uint8)))
    assert packed(tmp_path / "train-images-idx3-ubyte", tmp_path / "out.zip", labels=False).labels is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["mkdir", "write", "fsync", "replace"])
def test_where_nothing_can_be_written(
    moment: str, number: int, random_image: Maker, write_files: Writer, tmp_path: Path, monkeypatch, capsys
) -> None:
    source, dest = write_files({f"{i}.png": random_image(i) for i in range(3)}), tmp_path / "new" / "out.zip"

    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    owner, name = {"write": (zipfile.ZipFile, "writestr")}.get(moment, (os, moment))
    monkeypatch.setattr(owner, name, refuse)
    assert main(["dataset", "--source", str(source), "--dest", str(dest)]) == 2
    found = capsys.readouterr().err.splitlines()[-1]
    assert found.startswith(f"smartfast: error: dest: {dest}: cannot be written ({os.strerror(number)}), expected")
    assert not dest.parent.exists() or not list(dest.parent.iterdir())


@pytest.mark.parametrize("dest", ["~nouser/a.zip", "x" * 300 + ".zip", "/proc/nowhere/a.zip", "set/0.png/a.zip"])
def test_destinations_that_no_system_takes(
    dest: str, random_image: Maker, write_files: Writer, tmp_path: Path, monkeypatch, capsys
) -> None:
    source = write_files({"0.png": random_image(0)})
    monkeypatch.chdir(tmp_path)
    assert main(["dataset", "--source", str(source), "--dest", dest]) == 2
    assert re.match("smartfast: error: dest(:| is) .*, expected", capsys.readouterr().err.splitlines()[-1])


def test_names_of_any_bytes(random_image: Maker, write_files: Writer, tmp_path: Path, capsys) -> None:
    source = write_files({"a/0.png": random_image(0), "b/1.png": random_image(0)})
    for old, new in ((b"a/0.png", b"a/caf\xe9.png"), (b"b", b"two\nlin\xe9s")):
        os.rename(os.fsencode(source) + b"/" + old, os.fsencode(source) + b"/" + new)
    dest = tmp_path / os.fsdecode(b"\xe9.zip")
    assert packed(source, dest).class_names == ("a", "two\\nlin\\udce9s")
    assert capsys.readouterr().out.isascii()
