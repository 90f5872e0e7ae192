"""`hf:` data sets. The real `datasets` library is used where it is installed, and a stand-in everywhere."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset
from smartfast.data.sources.base import ImageInfo
from smartfast.data.sources.hub import HubSource
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]


class FakeImage:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class FakeClassLabel:
    pass


class FakeAudio:
    """A column that only another package can decode."""

    decode = True


class FakeRows:
    """As much of datasets.Dataset as is used. A row that is read has every column decoded, which nothing here needs."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]], files: tuple[Path, ...] = ()) -> None:
        self.features, self.rows = features, rows
        self.cache_files = [{"filename": str(file)} for file in files]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        for column, kind in self.features.items():
            if getattr(kind, "decode", False):
                raise ImportError(f"To support decoding of {column}, install more")
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def select_columns(self, columns: list[str]) -> "FakeRows":
        rows = [{column: row[column] for column in columns} for row in self.rows]
        files = tuple(Path(file["filename"]) for file in self.cache_files)
        return FakeRows({column: self.features[column] for column in columns}, rows, files)

    def cast_column(self, column: str, kind: FakeImage) -> "FakeRows":
        assert not kind.decode
        files = tuple(Path(file["filename"]) for file in self.cache_files)
        return FakeRows(self.features | {column: kind}, self.rows, files)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], FakeRows]:
    """Data sets by (name, split), served by a stand-in for the library."""
    served: dict[tuple[str, str], FakeRows] = {}

    def load_dataset(name: str, split: str) -> FakeRows:
        if (name, split) not in served:
            raise ValueError(f"Unknown split {split!r}.\nMore lines.")
        return served[name, split]

    module = SimpleNamespace(Image=FakeImage, ClassLabel=FakeClassLabel, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return served


def test_rows_of_a_split(fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker, tmp_path: Path) -> None:
    pictures = [random_image(i) for i in range(3)]
    pictures[1].save(tmp_path / "1.png")
    cells = [{"bytes": encoded(image), "path": None} for image in pictures]
    cells[1] = {"bytes": None, "path": str(tmp_path / "1.png")}
    rows = [{"picture": cell, "kind": label} for cell, label in zip(cells, [1, 0, 1], strict=True)]
    fake_hub["owner/name", "test"] = FakeRows({"kind": FakeClassLabel(), "picture": FakeImage()}, rows)
    dataset = open_dataset(DataConfig(path="hf:owner/name:test", labels=True))
    assert (dataset.name, dataset.resolution, dataset.channels, dataset.num_classes) == ("name", 16, 3, 2)
    expected = np.stack([np.array(image).transpose(2, 0, 1) for image in pictures])
    assert torch.equal(dataset.all_images(), torch.from_numpy(expected))
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0, 1]


def test_default_split_is_train(fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker) -> None:
    cell = {"bytes": encoded(random_image(0)), "path": None}
    fake_hub["owner/name", "train"] = FakeRows({"image": FakeImage()}, [{"image": cell}])
    assert len(open_dataset(DataConfig(path="hf:owner/name"))) == 1


def test_other_columns_are_not_decoded(
    fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker, tmp_path: Path
) -> None:
    table = tmp_path / "table.arrow"
    table.write_bytes(b"rows")
    features = {"image": FakeImage(), "mask": FakeImage(), "sound": FakeAudio(), "label": FakeClassLabel()}
    broken = {"mask": {"bytes": b"broken", "path": None}, "sound": {"bytes": b"", "path": None}}
    rows = [{"image": {"bytes": encoded(random_image(i)), "path": None}, "label": i % 2} | broken for i in range(3)]
    fake_hub["owner/name", "train"] = FakeRows(features, rows, (table,))
    dataset = open_dataset(DataConfig(path="hf:owner/name", labels=True))
    assert torch.equal(dataset.image(2), torch.from_numpy(np.array(random_image(2))).movedim(2, 0))
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 0]


def test_the_address_as_typed_is_no_part_of_the_fingerprint(
    fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker
) -> None:
    rows = [{"image": {"bytes": encoded(random_image(i)), "path": None}} for i in range(3)]
    for name in ("owner/name", "/copies/of/it"):
        fake_hub[name, "train"] = FakeRows({"image": FakeImage()}, rows)
    addresses = ("hf:owner/name", "hf:owner/name:train", "hf:/copies/of/it")
    typed = {address: open_dataset(DataConfig(path=address)) for address in addresses}
    assert len({dataset.fingerprint for dataset in typed.values()}) == 1
    recorded = "7d88080f346c6808"  # by commit 7994b79, of hf:owner/name
    assert [dataset.was_recorded_as(recorded) for dataset in typed.values()] == [True, False, False]


@pytest.fixture
def inspections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were inspected."""
    done: list[int] = []
    inspect = HubSource.inspect

    def count(source: HubSource, index: int) -> ImageInfo:
        done.append(index)
        return inspect(source, index)

    monkeypatch.setattr(HubSource, "inspect", count)
    return done


def test_rows_are_inspected_again_when_the_library_has_written_them_anew(
    fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker, tmp_path: Path, inspections: list[int]
) -> None:
    table = tmp_path / "table.arrow"
    table.write_bytes(b"rows")
    cells = [{"image": {"bytes": encoded(random_image(i)), "path": None}} for i in range(3)]
    fake_hub["owner/name", "train"] = FakeRows({"image": FakeImage()}, cells, (table,))
    fingerprint = open_dataset(DataConfig(path="hf:owner/name")).fingerprint
    assert sorted(inspections) == [0, 1, 2]
    assert open_dataset(DataConfig(path="hf:owner/name")).fingerprint == fingerprint
    open_dataset(DataConfig(path="hf:owner/name:train"))
    assert len(inspections) == 3
    table.write_bytes(b"other rows")
    open_dataset(DataConfig(path="hf:owner/name"))
    assert len(inspections) == 6


def test_rows_that_name_files_are_inspected_when_those_change(
    fake_hub: dict[tuple[str, str], FakeRows], random_image: Maker, tmp_path: Path, inspections: list[int]
) -> None:
    for i in range(3):
        random_image(i).save(tmp_path / f"{i}.png")
    cells = [{"image": {"bytes": None, "path": str(tmp_path / f"{i}.png")}} for i in range(3)]
    fake_hub["owner/name", "train"] = FakeRows({"image": FakeImage()}, cells)
    open_dataset(DataConfig(path="hf:owner/name"))
    inspections.clear()
    os.utime(tmp_path / "1.png", ns=(1, 1))
    open_dataset(DataConfig(path="hf:owner/name"))
    assert inspections == [1]


BAD: dict[str, tuple[FakeRows, str]] = {
    "no image column": (
        FakeRows({"text": object()}, [{"text": "x"}]),
        "data.path: hf:a/b has columns text, expected one of type Image",
    ),
    "no row": (FakeRows({"image": FakeImage()}, []), "data.path: hf:a/b holds no image, expected at least one row"),
    "no cell": (
        FakeRows({"image": FakeImage()}, [{"image": None}]),
        "hf:a/b: row 0: no image, expected one in every row",
    ),
    "corrupt cell": (
        FakeRows({"image": FakeImage()}, [{"image": {"bytes": b"x", "path": None}}]),
        "hf:a/b: row 0: not a readable image (of no format",
    ),
    "missing file": (
        FakeRows({"image": FakeImage()}, [{"image": {"bytes": None, "path": "gone.png"}}]),
        "hf:a/b: row 0: [Errno 2] No such file or directory: 'gone.png', expected a readable image file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case: str, fake_hub: dict[tuple[str, str], FakeRows]) -> None:
    fake_hub["a/b", "train"], message = BAD[case]
    with pytest.raises(UserError) as refusal:
        open_dataset(DataConfig(path="hf:a/b"))
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


def test_failed_load_is_one_line(fake_hub: dict[tuple[str, str], FakeRows]) -> None:
    with pytest.raises(UserError) as refusal:
        open_dataset(DataConfig(path="hf:a/b:dev"))
    assert (
        str(refusal.value) == "data.path: hf:a/b:dev not loaded (Unknown split 'dev'.), expected hf:owner/name[:split]"
    )


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^data\.path: hf:a/b needs the package datasets: pip install datasets$"):
        open_dataset(DataConfig(path="hf:a/b"))


def test_real_library(random_image: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the hf extra is not installed; the stand-in tests ran")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [random_image(i) for i in range(4)]
    kinds = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    broken = [{"bytes": b"no image", "path": None}] * 4
    table = datasets.Dataset.from_dict({"image": pictures, "mask": broken, "label": [1, 0, 0, 1]}, features=kinds)
    (tmp_path / "local").mkdir()
    table.to_parquet(tmp_path / "local" / "train.parquet")
    dataset = open_dataset(DataConfig(path=f"hf:{tmp_path}/local", labels=True))
    assert dataset.labels is not None and dataset.labels.tolist() == [1, 0, 0, 1]
    expected = np.stack([np.array(image).transpose(2, 0, 1) for image in pictures])
    assert torch.equal(dataset.all_images(), torch.from_numpy(expected))
    with pytest.raises(UserError, match="not loaded"):
        open_dataset(DataConfig(path=f"hf:{tmp_path}/local:nosuchsplit"))
