"""Classes of every layout: their order, their names, and folders around them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.dataset import described_classes
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def opened(path: Path) -> ImageDataset:
    return open_dataset(DataConfig(path=str(path), labels=True))


def test_numbered_folders_are_in_the_order_of_their_numbers(random_image: Maker, write_files: Writer) -> None:
    dataset = opened(write_files({f"{kind}/0.png": random_image(kind) for kind in range(12)}))
    assert dataset.labels is not None
    found = {name: int(label) for name, label in zip(dataset.source.names, dataset.labels, strict=True)}
    assert found == {f"{kind}/0.png": kind for kind in range(12)}
    assert dataset.class_names == tuple(str(kind) for kind in range(12))


ORDERS: dict[str, Sequence[str]] = {
    "numbers": ["0", "1", "2", "9", "10", "11", "100"],
    "numbered words": ["class1", "class2", "class10"],
    "with zeros before": ["007", "08", "9", "0010"],
    "equal but for zeros": ["01", "1", "2"],
    "words": ["Cat", "Dog", "bird"],
    "two numbers": ["v1.2", "v1.10", "v2.1"],
    "synsets": ["n01440764", "n01443537", "n02102040"],
    "numbers and words": ["3", "20", "cat"],
}


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize("case", ORDERS)
def test_class_folders_are_sorted_as_people_count(
    case: str, name: str, random_image: Maker, write_files: Writer
) -> None:
    folders = ORDERS[case]
    dataset = opened(write_files({f"{folder}/a.png": random_image(i) for i, folder in enumerate(folders)}, name))
    assert dataset.class_names == tuple(folders)


def labelled(prefix: str, random_image: Maker) -> dict[str, Any]:
    return {f"{prefix}{kind}/{i}.png": random_image(i) for i, kind in enumerate(["dog", "cat", "cat", "emu"])}


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize("wrapper", ["", "set/", "deep/er/"])
def test_classes_below_folders_that_hold_everything(
    wrapper: str, name: str, random_image: Maker, write_files: Writer
) -> None:
    dataset = opened(write_files(labelled(wrapper, random_image), name))
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize("wrapper", ["", "set/", "deep/er/"])
@pytest.mark.parametrize("inner", ["", "00000/"])
def test_label_file_below_folders_that_hold_everything(
    inner: str, wrapper: str, name: str, random_image: Maker, write_files: Writer
) -> None:
    labels = [[f"{inner}{i}.png", label] for i, label in enumerate([1, 0, 1])]
    files = {f"{wrapper}{inner}{i}.png": random_image(i) for i in range(3)}
    dataset = opened(write_files(files | {f"{wrapper}dataset.json": {"labels": labels}}, name))
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0, 1]
    assert dataset.class_names is None


def test_folders_below_the_classes_are_no_classes(random_image: Maker, write_files: Writer) -> None:
    files = {"cat/a/0.png": random_image(0), "cat/b/0.png": random_image(1), "dog/a/0.png": random_image(2)}
    assert opened(write_files(files)).class_names == ("cat", "dog")


def test_one_folder_with_images_and_folders_is_one_class(random_image: Maker, write_files: Writer) -> None:
    path = write_files({"cat/0.png": random_image(0), "cat/more/1.png": random_image(1)})
    with pytest.raises(UserError, match="all images of set are of one class"):
        opened(path)


def test_class_names_in_the_label_file(random_image: Maker, write_files: Writer) -> None:
    files: dict[str, Any] = {f"{i}.png": random_image(i) for i in range(3)}
    labels = [[f"{i}.png", label] for i, label in enumerate([1, 0, 1])]
    path = write_files(files | {"dataset.json": {"labels": labels, "class_names": ["cat", "dog"]}})
    assert opened(path).class_names == ("cat", "dog")


@pytest.mark.parametrize("bad", [["cat"], ["cat", 1], "cat", {"0": "cat", "1": "dog"}, ["cat", "cat"]])
def test_class_names_that_are_none(bad: Any, random_image: Maker, write_files: Writer) -> None:
    files = {f"{i}.png": random_image(i) for i in range(2)}
    table = {"labels": [["0.png", 0], ["1.png", 1]], "class_names": bad}
    with pytest.raises(UserError, match=r"dataset\.json: class_names .*, expected .*one name .* per class"):
        opened(write_files(files | {"dataset.json": table}))


def test_gaps_stay_and_are_said(random_image: Maker, write_files: Writer) -> None:
    """The numbers mean something, to a scorer for one: they are not counted anew."""
    files = {f"{i}.png": random_image(i) for i in range(6)}
    labels = [[f"{i}.png", 5 * (i % 2)] for i in range(6)]
    with pytest.warns(UserWarning, match=r"4 of 6 classes have no image, e\.g\. 1"):
        dataset = opened(write_files(files | {"dataset.json": {"labels": labels}}))
    assert dataset.num_classes == 6
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 5] * 3


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_labels_of_an_npz_without_names(dtype: type, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", np.zeros((6, 16, 16, 3), np.uint8), np.arange(6, dtype=dtype) % 2)
    dataset = opened(tmp_path / "set.npz")
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1] * 3


def test_names_of_the_digits() -> None:
    assert opened(Path("digits")).class_names == tuple("0123456789")


DESCRIBED = {
    "names": (["cat", "dog", "emu"], ", 3 classes: 0 cat, 1 dog, 2 emu"),
    "many names": ([f"kind{i:02}" for i in range(30)], ", 30 classes: 0 kind00, 1 kind01, ..., 29 kind29"),
    "numbers": ([str(i) for i in range(12)], ", 12 classes"),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_a_run_says_which_class_is_which(case: str, random_image: Maker, write_files: Writer) -> None:
    folders, line = DESCRIBED[case]
    path = write_files({f"{folder}/a.png": random_image(i) for i, folder in enumerate(folders)})
    assert described_classes(opened(path)).startswith(line)
    assert described_classes(open_dataset(DataConfig(path=str(path)))) == ""
