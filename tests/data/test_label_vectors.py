"""Several and continuous labels per image: what files may hold, what is refused, what becomes of them in a zip."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smartfast.config.schema import DataConfig
from smartfast.core.grids import GridShape
from smartfast.data import ImageDataset, iterate_batches, open_dataset
from smartfast.data.dataset import described_classes
from smartfast.data.holdout import split
from smartfast.errors import UserError
from smartfast.families.sampling import real_grid
from smartfast.tools.dataset import DatasetOptions, convert

Maker = Callable[..., Any]
VECTORS = [[0.25, -1.5, 3.0], [1, 0, 1], [0, 0, 0], [1e-3, 7, 2.5], [1, 0, 1]]


def opened(path: Path) -> ImageDataset:
    return open_dataset(DataConfig(path=str(path), labels=True))


def files(random_image: Maker, labels: list[object], **more: object) -> dict[str, Any]:
    images = {f"{i}.png": random_image(i) for i in range(5)}
    pairs = [[name, label] for name, label in zip(images, labels, strict=True)]
    return images | {"dataset.json": {"labels": pairs[::-1], **more}}


@pytest.mark.parametrize("name", ["set", "set.zip"])
def test_vectors_of_a_label_file(random_image: Maker, write_files: Callable[..., Path], name: str) -> None:
    dataset = opened(write_files(files(random_image, VECTORS, class_names=["old", "glad", "left"]), name))
    assert dataset.labels is not None and dataset.labels.dtype == torch.float32
    assert torch.equal(dataset.labels, torch.tensor(VECTORS, dtype=torch.float32))
    assert dataset.num_classes == 3 and dataset.class_names == ("old", "glad", "left") and dataset[1][1] == 0
    assert described_classes(dataset) == ", label vectors of 3: 0 old, 1 glad, 2 left"
    batches = iterate_batches(
        dataset, seed=0, batch=4, offsets=torch.arange(4), start_images=0, device="cpu", mirror=False, cache="device",
        workers=0,
    )  # fmt: skip
    batch = next(batches)
    images = {tuple(image.flatten().tolist()): i for i, image in enumerate(dataset.all_images())}
    for image, label in zip(batch.images, batch.labels, strict=True):
        number = images[tuple((image.flatten() * 127.5 + 127.5).round().to(torch.uint8).tolist())]
        assert torch.equal(label, dataset.labels[number])


def test_a_column_of_whole_numbers_is_classes(tmp_path: Path) -> None:
    """As Keras has CIFAR's labels."""
    labels = np.array([[2], [0], [1], [2], [0], [1]])
    np.savez(tmp_path / "set.npz", images=np.zeros((6, 8, 8, 3), np.uint8), labels=labels)
    dataset = opened(tmp_path / "set.npz")
    assert dataset.labels.tolist() == [2, 0, 1, 2, 0, 1] and dataset.num_classes == 3
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([[0.5], [1.5]]))
    assert opened(tmp_path / "set.npz").labels.tolist() == [[0.5], [1.5]]


def test_vectors_of_an_npz_and_of_a_part(tmp_path: Path) -> None:
    pixels, vectors = np.zeros((6, 8, 8, 3), np.uint8), np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "set.npz", images=pixels, labels=vectors)
    dataset = opened(tmp_path / "set.npz")
    assert dataset.labels.tolist() == vectors.tolist()
    training, held_out = split(dataset, 2)
    assert held_out.labels.tolist() == [[0, 1], [6, 7]] and training.labels.shape == (4, 2)
    assert real_grid(dataset, GridShape(2, 3)).shape == (6, 3, 8, 8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=vectors + 1)
    assert opened(tmp_path / "set.npz").fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[1, 2], [1], [1, 2], [1, 2], [1, 2]],
            r"1.png: label \[1\], expected a list of 2 finite numbers as the first",
        ),
        ([[1, 2], 3, [1, 2], [1, 2], [1, 2]], r"1.png: label 3, expected a list of 2"),
        ([1, [1, 2], 1, 1, 1], r"1.png: label \[1, 2\], expected a whole number"),
        ([[1.0], [float("nan")], [1], [2], [3]], r"1.png: label \[nan\], expected a list of 1 finite"),
        ([[1.0], [2], [float("-inf")], [2], [3]], r"2.png: label \[-inf\]"),
        ([[1.0], [2], [10**400], [2], [3]], r"2.png: label \[1000000"),
        ([[1.0], [2], [3], ["4"], [3]], r"3.png: label \['4'\]"),
        ([[1.0], [2], [3], [True], [3]], r"3.png: label \[True\]"),
        ([[[1.0]], [2], [3], [4], [3]], r"0.png: label \[\[1.0\]\]"),
        ([[], [], [], [], []], r"0.png: label \[\], expected one with numbers"),
        ([[0.5, 1]] * 5, "all images of set are of one class"),
        ([0.5, 1, 2, 0.25, 1], r"0.png: label 0.5, expected a whole number"),
    ],
)
def test_vectors_that_are_refused(
    random_image: Maker, write_files: Callable[..., Path], labels: list[object], message: str
) -> None:
    path = write_files(files(random_image, labels))
    with pytest.raises(UserError, match=message) as error:
        opened(path)
    assert "\n" not in str(error.value)


def test_every_number_of_a_vector_has_a_name_or_none_has(random_image: Maker, write_files: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="class_names has 2 different names, expected at least one name of .* 3"):
        opened(write_files(files(random_image, VECTORS, class_names=["old", "glad"])))


def test_the_dataset_tool_keeps_vectors(
    random_image: Maker, write_files: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_files(files(random_image, VECTORS, class_names=["old", "glad", "left"]))
    convert(DatasetOptions(source=str(source), dest=str(tmp_path / "out.zip"), resolution="8", max_images=3))
    assert "label vectors of 3" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        table = json.loads(archive.read("dataset.json"))
    assert [label for _, label in table["labels"]] == [VECTORS[i] for i in (0, 1, 3)]
    dataset = opened(tmp_path / "out.zip")
    assert dataset.labels.tolist() == torch.tensor([VECTORS[i] for i in (0, 1, 3)]).tolist()
    assert dataset.class_names == ("old", "glad", "left")
