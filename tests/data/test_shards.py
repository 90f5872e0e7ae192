"""Folders of .tar shards: the same images, labels and order as the same files in a folder."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import iterate_batches, open_dataset
from smartfast.data.sources import shards
from smartfast.data.sources.shards import ShardsSource
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Files = Mapping[str, bytes] | list[tuple[str, bytes]]
"""By name; a list where a name occurs twice."""


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def write_shards(tmp_path: Path) -> Callable[[Sequence[Files]], Path]:
    """write_shards([files of the first shard, ...]): a folder of 00.tar, 01.tar, ..."""

    def write(contents: Sequence[Files]) -> Path:
        folder = tmp_path / "shards"
        folder.mkdir(exist_ok=True)
        for number, files in enumerate(contents):
            with tarfile.open(folder / f"{number:02}.tar", "w") as archive:
                for name, content in files if isinstance(files, list) else files.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return folder

    return write


def two_shards(random_image: Maker, *, classes: bool = True) -> list[dict[str, bytes]]:
    """Seven images; their classes are their numbers modulo 3, the names of the second shard are those of the first."""
    files: list[dict[str, bytes]] = [{}, {}]
    for number in range(7):
        shard, name = files[number // 4], f"{number % 4:06}"
        shard[f"{name}.png"] = png(random_image(number))
        shard[f"{name}.json"] = b"{}"
        if classes:
            shard[f"{name}.cls"] = f"{number % 3}\n".encode()
    return files


def test_images_and_classes_are_those_put_in(random_image: Maker, write_shards, write_files) -> None:
    folder = write_shards(two_shards(random_image))
    dataset = open_dataset(DataConfig(path=str(folder), labels=True))
    assert (dataset.name, len(dataset), dataset.resolution, dataset.num_classes) == ("shards", 7, 16, 3)
    assert dataset.labels.tolist() == [number % 3 for number in range(7)]
    other = open_dataset(DataConfig(path=str(write_files({f"{n}.png": random_image(n) for n in range(7)}))))
    assert torch.equal(dataset.all_images(), other.all_images())
    again = pickle.loads(pickle.dumps(dataset.source))
    assert again.decode(5).tobytes() == random_image(5).tobytes()
    assert dataset.source.item_name(5).endswith("shards/01.tar/000001.png")


def test_what_lies_beside_an_image_is_none(random_image: Maker, write_shards) -> None:
    """A name's key ends at the first dot of the file's name, so masks and second views are not taken for images."""
    files = {}
    for number in range(2):
        files |= {f"a.b/{number}.png": png(random_image(number)), f"a.b/{number}.cls": b"%d" % number}
        files[f"a.b/{number}.seg.png"] = png(random_image(7))
    dataset = open_dataset(DataConfig(path=str(write_shards([files])), labels=True))
    assert dataset.labels.tolist() == [0, 1]
    assert [dataset.source.decode(n).tobytes() for n in range(2)] == [random_image(n).tobytes() for n in range(2)]


def test_the_order_is_that_of_any_other_data_for_every_process(random_image: Maker, write_shards, write_files) -> None:
    """Streamed, resumed in the middle and shared by two processes."""
    sets = [
        open_dataset(DataConfig(path=str(write_shards(two_shards(random_image, classes=False))))),
        open_dataset(DataConfig(path=str(write_files({f"{n}.png": random_image(n) for n in range(7)})))),
    ]
    found = []
    for dataset in sets:
        for start, offsets in ((0, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (8, [2, 3])):
            batches = iterate_batches(
                dataset,
                seed=3,
                batch=4,
                offsets=torch.tensor(offsets),
                start_images=start,
                device="cpu",
                mirror=True,
                cache="stream",
                workers=0,
            )
            found.append(torch.cat([next(batches).images for _ in range(4)]))
            batches.close()
    half = len(found) // 2
    assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))
    assert torch.equal(found[0][8:], found[1][:8]), "a resumed run goes on where it was"
    assert torch.equal(found[1].unflatten(0, (4, 4))[:, 2:].flatten(0, 1), found[2])


def test_a_shard_is_listed_once_until_it_changes(random_image: Maker, write_shards, monkeypatch) -> None:
    listed: list[str] = []
    usual = shards._listed
    monkeypatch.setattr(shards, "_listed", lambda path: listed.append(path.name) or usual(path))
    files = two_shards(random_image)
    folder = write_shards(files)
    first = [ShardsSource(folder).decode(index).tobytes() for index in range(7)]
    assert [ShardsSource(folder).decode(index).tobytes() for index in range(7)] == first
    assert listed == ["00.tar", "01.tar"]
    files[1]["000009.png"] = png(random_image(9))
    write_shards(files)
    assert len(ShardsSource(folder)) == 8 and set(listed[2:]) == {"00.tar", "01.tar"}


def test_a_name_twice_in_a_shard_counts_once(random_image: Maker, write_shards, write_files) -> None:
    """At every start, although nothing but its name and its shard tells an image from the others."""
    contents = [("0.png", png(random_image(0))), ("0.cls", b"0"), ("1.png", png(random_image(1))), ("1.cls", b"1")]
    folder = write_shards([[*contents, ("0.png", png(random_image(2)))]])
    with pytest.warns(UserWarning, match=r"00\.tar: 1 names occur more than once, the last of each is taken, e\.g\. 0"):
        first = open_dataset(DataConfig(path=str(folder), labels=True))
    truth = open_dataset(DataConfig(path=str(write_files({f"{n}.png": random_image(n) for n in (1, 2)}))))
    for dataset in (first, *(open_dataset(DataConfig(path=str(folder), labels=True)) for _ in range(2))):
        assert dataset.fingerprint == first.fingerprint
        assert torch.equal(dataset.all_images(), truth.all_images())
        assert dataset.labels.tolist() == [1, 0]


@pytest.mark.parametrize("litter", ["._00.tar", "@eaDir/00.png", "lost+found/0"])
def test_what_the_system_leaves_beside_shards_does_not_count(litter: str, random_image: Maker, write_shards) -> None:
    folder = write_shards(two_shards(random_image))
    (folder / litter).parent.mkdir(exist_ok=True)
    (folder / litter).write_bytes(b"of the system")
    assert len(open_dataset(DataConfig(path=str(folder), labels=True))) == 7


def test_a_folder_that_may_not_be_read_is_one_line(random_image: Maker, write_shards, monkeypatch) -> None:
    folder = write_shards(two_shards(random_image))

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)  # which Path.iterdir takes
    with pytest.raises(UserError, match=r"^[^\n]*/shards: cannot be read \(Permission denied\), expected a folder"):
        open_dataset(DataConfig(path=str(folder)))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"x" * 2000), "is not a readable .tar"),
        (lambda path: path.write_bytes(path.read_bytes()[:1500]), "01.tar"),
        (lambda path: path.write_bytes(b""), "is not a readable .tar"),
    ],
)
def test_a_damaged_shard_is_one_line(spoil, reason, random_image: Maker, write_shards) -> None:
    folder = write_shards([{"0.png": png(random_image(0))}, {"1.png": png(random_image(1, size=(64, 64)))}])
    spoil(folder / "01.tar")
    with pytest.raises(UserError, match=f"^data.path: .*{reason}.*, expected") as caught:
        open_dataset(DataConfig(path=str(folder)))
    assert "\n" not in str(caught.value)


def test_a_shard_that_shrinks_under_its_run_is_named(random_image: Maker, write_shards) -> None:
    folder = write_shards([{"0.png": png(random_image(0))}])
    source = ShardsSource(folder)
    (folder / "00.tar").write_bytes(b"")
    with pytest.raises(UserError, match="00.tar/0.png: ends after 0 bytes, expected "):
        source.decode(0)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"0.txt": b""}, "holds no image in its shards"),
        ({"0.png": None, "1.png": None, "1.cls": b"0"}, "0.png: no .cls beside it, expected one for every image"),
        ({"0.png": None, "0.cls": b"cat"}, "label 'cat', expected a whole number"),
    ],
)
def test_what_cannot_be_trained_on(files, reason, random_image: Maker, write_shards) -> None:
    image = png(random_image(0))
    folder = write_shards([{name: image if content is None else content for name, content in files.items()}])
    with pytest.raises(UserError, match=reason):
        open_dataset(DataConfig(path=str(folder), labels=True))


def test_images_beside_a_shard_are_a_folder_of_images(random_image: Maker, write_shards) -> None:
    folder = write_shards([{"0.png": png(random_image(0))}])
    random_image(1).save(folder / "1.png")
    with pytest.warns(UserWarning, match="1 files that are no images are left out"):
        assert len(open_dataset(DataConfig(path=str(folder)))) == 1
