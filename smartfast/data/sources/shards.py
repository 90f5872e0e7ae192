"""A folder of .tar shards, as webdataset's tools write them: many images in few large files, none unpacked.

A member `000123.jpg` is an image, `000123.cls` beside it in the same shard its class; other members do not count, nor
does `000123.seg.png`: as in webdataset, a file's kind is all that follows the first dot of its name. Where
each lies in its shard is kept beside the index of images, so that any image is one read: the order of a run, its parts
for several processes and what it sees after it is resumed are those of every other source, and no machine needs to hold
more than it reads.
"""

import json
import os
import posixpath
import tarfile
import warnings
from pathlib import Path
from typing import NamedTuple

from smartfast.core.files import write_atomically
from smartfast.core.text import printable
from smartfast.data.kept import kept_file
from smartfast.data.sources.base import Labels, Version, file_version
from smartfast.data.sources.encoded import IMAGE_SUFFIXES, EncodedSource
from smartfast.data.sources.names import visible_entries
from smartfast.errors import UserError

_SUFFIX, _CLASS = ".tar", ".cls"
_FORMAT = 2


class Member(NamedTuple):
    """A file in a shard: its name there, and where its bytes are."""

    name: str
    offset: int
    size_bytes: int


def is_sharded(folder: Path) -> bool:
    """Whether a folder's own files are shards, and neither images nor folders with such lie beside them.

    Raises:
        UserError: The folder cannot be read.
    """
    suffixes = {"/" if entry.is_dir() else _suffix(entry.name) for entry in visible_entries(str(folder))}
    return _SUFFIX in suffixes and not suffixes & (IMAGE_SUFFIXES | {"/"})


class ShardsSource(EncodedSource):
    """Images of all shards of a folder, in the order of the shards' names and of their places in them; see `Source`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = printable(root.resolve().name)
        self.place = printable(str(root.resolve()))
        self._items: list[tuple[str, Member]] = []
        self._classes: list[Member | None] = []
        for shard in [entry.name for entry in visible_entries(str(root)) if _suffix(entry.name) == _SUFFIX]:
            members = [(*_key_and_kind(member.name), member) for member in self._members(shard)]
            classes = {key: member for key, kind, member in members if kind == _CLASS}
            images = [(key, member) for key, kind, member in members if kind in IMAGE_SUFFIXES]
            self._items += [(shard, member) for _, member in images]
            self._classes += [classes.get(key) for key, _ in images]
        if not self._items:
            where = printable(str(root))
            raise UserError(f"data.path: {where} holds no image in its shards, expected members such as 0.jpg")

    def __len__(self) -> int:
        return len(self._items)

    def item_name(self, index: int) -> str:
        shard, member = self._items[index]
        return printable(f"{self.root / shard}/{member.name}")

    def versions(self) -> list[Version]:
        """All of a shard change with it."""
        shards = {shard: file_version("", self.root / shard) for shard, _ in self._items}
        return [shards[shard]._replace(name=f"{shard}/{member.name}") for shard, member in self._items]

    def labels(self) -> Labels | None:
        if not any(self._classes):
            return None
        values: list[object] = []
        for index, found in enumerate(self._classes):
            if found is None:
                raise UserError(f"{self.item_name(index)}: no {_CLASS} beside it, expected one for every image")
            text = self._content(self._items[index][0], found).strip()
            values.append(int(text) if text.isdigit() else printable(text.decode(errors="replace")))
        return Labels(values)

    def _read(self, index: int) -> bytes:
        return self._content(*self._items[index])

    def _content(self, shard: str, member: Member) -> bytes:
        try:
            with open(self.root / shard, "rb") as file:
                file.seek(member.offset)
                content = file.read(member.size_bytes)
        except OSError as error:
            reason = f"{printable(str(self.root / shard))}: cannot be read ({error.strerror})"
            raise UserError(f"{reason}, expected a shard that can be") from error
        if len(content) < member.size_bytes:
            where = printable(f"{self.root / shard}/{member.name}")
            raise UserError(f"{where}: ends after {len(content)} bytes, expected {member.size_bytes}")
        return content

    def _members(self, shard: str) -> list[Member]:
        """The files in a shard, from what is kept of it where that is as it was."""
        path = self.root / shard
        kept = kept_file(f"{self.place}/{shard}", ".shard.json")
        version = list(file_version("", path))[1:]
        try:
            found = json.loads(kept.read_bytes())
            if found["format"] == _FORMAT and found["version"] == version:
                return [Member(*row) for row in found["members"]]
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not as it was written: made anew
            pass
        members = _listed(path)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            content = {"format": _FORMAT, "version": version, "members": members}
            write_atomically(kept, json.dumps(content).encode())
        except OSError as error:
            warnings.warn(f"index of a shard {kept} cannot be written: {error}", stacklevel=3)
        return members


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _key_and_kind(name: str) -> tuple[str, str]:
    """What the members of one image have in common, and what follows it, such as .jpg."""
    folder, file = posixpath.split(name)
    stem, dot, kind = file.partition(".")
    return posixpath.join(folder, stem), (dot + kind).lower()


def _listed(path: Path) -> list[Member]:
    """The files in a shard in the order of their places, each name once, as whoever unpacks it has them."""
    where = f"data.path: {printable(str(path))}"
    try:
        with tarfile.open(path, "r:") as archive:
            files = [info for info in archive if info.isreg() and not info.issparse()]
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{where} is not a readable .tar ({reason}), expected an intact one, not compressed") from error
    size = os.path.getsize(path)
    cut = next((info for info in files if info.offset_data + info.size > size), None)
    if cut is not None:
        raise UserError(f"{where} ends within {printable(cut.name)}, expected an intact one")
    last = {info.name: info for info in files}
    twins = [info.name for info in files if last[info.name] is not info]
    if twins:
        what = f"{len(twins)} names occur more than once, the last of each is taken"
        warnings.warn(f"{printable(str(path))}: {what}, e.g. {printable(twins[0])}", stacklevel=4)
    return [Member(info.name, info.offset_data, info.size) for info in files if last[info.name] is info]
