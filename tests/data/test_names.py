"""Which files of a folder or .zip are taken, each once, and names of every kind."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def names(dataset: ImageDataset) -> list[str]:
    return dataset.source.names  # type: ignore[attr-defined]


def opened(path: Path | str, **options: object) -> ImageDataset:
    return open_dataset(DataConfig(path=str(path), **options))  # type: ignore[arg-type]


def write_zip(path: Path, entries: list[tuple[str, Image.Image]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, image in entries:
            file = io.BytesIO()
            image.save(file, "png")
            archive.writestr(zipfile.ZipInfo(name), file.getvalue())
    return path


LINKS: dict[str, tuple[dict[str, str], str | None]] = {
    "to the parent": ({"a/up": ".."}, "a/up"),
    "to the folder itself": ({"a/self": "."}, "a/self"),
    "to the root of the set": ({"b/root": "../"}, "b/root"),
    "to a sibling, before it": ({"0first": "b"}, "0first"),
    "to a sibling, after it": ({"z": "a"}, "z"),
    "to a file": ({"a/00.png": "0.png"}, "a/00.png"),
    "a ring of two": ({"a/x": "../b", "b/y": "../a"}, "a/x"),
    "to a file outside": ({"a/1.png": "../../outside/5.png"}, None),
    "to a folder outside": ({"c": "../outside"}, None),
    "twice to one folder outside": ({"c": "../outside", "d": "../outside"}, "d"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_give_no_image_twice(case: str, random_image: Maker, write_files: Writer) -> None:
    links, twin = LINKS[case]
    write_files({"5.png": random_image(5)}, "outside")
    folder = write_files({"a/0.png": random_image(0), "b/1.png": random_image(1)})
    for link, target in links.items():
        (folder / link).symlink_to(target)
    added = [] if "outside" not in case else ["a/1.png"] if "file" in case else ["c/5.png"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert names(opened(folder)) == sorted(["a/0.png", "b/1.png", *added])
    assert len(caught) == (twin is not None)
    assert twin is None or f"lead to what is there already and are left out, e.g. {twin}" in str(caught[0].message)


def test_images_of_equal_content_in_files_of_their_own_all_count(random_image: Maker, write_files: Writer) -> None:
    folder = write_files({"a/0.png": random_image(0), "b/1.png": random_image(0)})
    os.link(folder / "a" / "0.png", folder / "b" / "2.png")
    assert len(opened(folder)) == 3


def test_a_name_twice_in_a_zip_counts_once(random_image: Maker, tmp_path: Path, own_cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip", [("0.png", random_image(0)), ("1.png", random_image(1))])
    write_zip(path, [("0.png", random_image(0)), ("1.png", random_image(1)), ("./0.png", random_image(2))])
    with pytest.warns(UserWarning, match=r"1 names occur more than once, the last of each is taken, e\.g\. 0\.png"):
        dataset = opened(path)
    assert names(dataset) == ["0.png", "1.png"]
    truth = opened(write_zip(tmp_path / "truth.zip", [("0.png", random_image(2)), ("1.png", random_image(1))]))
    assert dataset.fingerprint == truth.fingerprint
    assert dataset.all_images().equal(truth.all_images())


def test_names_in_a_zip_that_begin_with_a_dot(random_image: Maker, tmp_path: Path, own_cache: Path) -> None:
    entries = [(f"./{kind}/{i}.png", random_image(i)) for kind in "ab" for i in range(2)]
    dataset = opened(write_zip(tmp_path / "set.zip", entries), labels=True)
    assert (len(dataset), dataset.num_classes) == (4, 2)
    assert names(dataset)[0] == "a/0.png"
    assert dataset.all_images().shape == (4, 3, 16, 16)


@pytest.mark.parametrize("folders", [(), ("set\\a\\", "set\\b\\")])
def test_backslashes_part_folders_where_no_name_in_a_zip_has_a_slash(
    folders: tuple[str, ...], random_image: Maker, tmp_path: Path, own_cache: Path
) -> None:
    """As .NET before 4.6.1 writes them, perhaps with entries for the folders."""
    entries = [(f"set\\{kind}\\{i}.png", random_image(i)) for kind in "ab" for i in range(2)]
    path = write_zip(tmp_path / "set.zip", entries)
    with zipfile.ZipFile(path, "a") as archive:
        for folder in folders:
            archive.writestr(zipfile.ZipInfo(folder), b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = opened(path, labels=True)
    assert names(dataset) == ["set/a/0.png", "set/a/1.png", "set/b/0.png", "set/b/1.png"]
    assert dataset.class_names == ("a", "b")
    assert dataset.source.decode(3).tobytes() == random_image(1).tobytes()


def test_a_backslash_beside_slashes_is_a_letter(random_image: Maker, tmp_path: Path, own_cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip", [("a/0\\1.png", random_image(0)), ("b.png", random_image(1))])
    assert names(opened(path)) == ["a/0\\1.png", "b.png"]


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png", "/a.png", "./../a.png", "..\\a.png"])
def test_names_in_a_zip_that_lead_out_of_it(name: str, random_image: Maker, tmp_path: Path, own_cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip", [("0.png", random_image(0)), (name, random_image(1))])
    with pytest.raises(UserError, match="leads out of the .zip, expected names below its top") as refusal:
        opened(path)
    assert str(refusal.value).startswith(f"{path}/{name}: ")


THUMBNAILS = "@eaDir .@__thumb #recycle @Recycle $RECYCLE.BIN __MACOSX .Trash-1000 @tmp lost+found".split()


@pytest.mark.parametrize("name", ["set", "set.zip"])
@pytest.mark.parametrize("folder", THUMBNAILS)
def test_folders_of_the_system_are_no_data(folder: str, name: str, random_image: Maker, write_files: Writer) -> None:
    files = {"a/0.png": random_image(0), "b/1.png": random_image(1), f"a/{folder}/0.png": random_image(2, (8, 8))}
    dataset = opened(write_files(files | {f"{folder}/2.png": random_image(3, (8, 8))}, name), labels=True)
    assert names(dataset) == ["a/0.png", "b/1.png"] and dataset.num_classes == 2


def test_a_folder_that_cannot_be_read_is_named(random_image: Maker, write_files: Writer, monkeypatch) -> None:
    folder = write_files({"a/0.png": random_image(0), "b/1.png": random_image(1)})
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"set/b: cannot be read \(Permission denied\), expected a folder"):
        opened(folder)


ODD = {
    "Latin-1 bytes": b"caf\xe9",
    "bytes that are no text": b"\xff\xfe\x80",
    "a newline": b"two\nlines",
    "a control character": b"bell\x07\x1b[31m",
    "a quote and a space": b'it\'s "so" ',
    "the longest name": b"x" * 250,
    "other scripts": "数字-ж".encode(),
}


@pytest.mark.parametrize("part", ["file", "class", "set"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_names(kind: str, part: str, random_image: Maker, write_files: Writer, capsys) -> None:
    """Opened, indexed and decoded; every message is one line that any terminal can print."""
    folder = os.fsencode(write_files({f"{kind}/{i}.png": random_image(i) for i, kind in enumerate("aab")}))
    old = {"file": b"/a/0.png", "class": b"/a", "set": b""}[part]
    new = os.path.dirname(folder + old) + b"/" + ODD[kind] + (b".png" if part == "file" else b"")
    os.rename(folder + old, new)
    path = os.fsdecode(new if part == "set" else folder)
    first = opened(path, labels=True)
    images = first.all_images()
    again = opened(path, labels=True)
    assert (again.fingerprint, again.num_classes, len(again)) == (first.fingerprint, 2, 3)
    assert again.all_images().equal(images)
    for index in range(3):
        text = first.source.item_name(index) + first.name + "".join(first.class_names or ())
        assert text.isprintable() and text.encode()
    with open((new if part == "set" else folder) + b"/b/2.png", "ab") as file:
        file.truncate(60)
    with pytest.raises(UserError) as refusal:
        opened(path)
    assert str(refusal.value).isprintable() and str(refusal.value).encode()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("~nouser/set", "home directory"),
        ("x" * 300, "File name too long"),
        ("/x" * 5000, "File name too long"),
        ("a\0b", "embedded null"),
    ],
)
def test_paths_that_no_system_takes(path: str, found: str, own_cache: Path) -> None:
    with pytest.raises(UserError, match=found) as refusal:
        opened(path)
    assert str(refusal.value).startswith("data.path: ") and "expected" in str(refusal.value)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500


def test_a_ring_of_links_as_the_path(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(UserError, match="data.path: .*symbolic links"):
        opened(tmp_path / "ring")
