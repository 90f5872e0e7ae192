"""A folder of image files, searched with its sub-folders."""

import os
import zlib
from pathlib import Path

from smartfast.core.text import printable
from smartfast.data.sources.base import Labels, Version, file_version
from smartfast.data.sources.encoded import EncodedSource
from smartfast.data.sources.labels import file_labels
from smartfast.data.sources.names import files_below, select_images
from smartfast.errors import UserError

_END_BYTES = 4096


class FolderSource(EncodedSource):
    """Images of a folder in the order of their relative paths; see `Source`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = printable(root.resolve().name)
        self.place = printable(str(root.resolve()))
        self.names = select_images(files_below(root), printable(str(root)))

    def __len__(self) -> int:
        return len(self.names)

    def item_name(self, index: int) -> str:
        return printable(str(self.root / self.names[index]))

    def versions(self) -> list[Version]:
        return [file_version(name, self.root / name) for name in self.names]

    def labels(self) -> Labels | None:
        return file_labels(self.names, self._label_file, printable(str(self.root)))

    def stamp_of_ends(self, index: int) -> str:
        """As ImageInfo.stamp, of the first and last 4 KiB alone: older checkpoints hold fingerprints of such stamps."""
        with (self.root / self.names[index]).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_END_BYTES)
            file.seek(max(0, size - _END_BYTES))
            return f"{size}:{zlib.crc32(head + file.read()):08x}"

    def _read(self, index: int) -> bytes:
        return _content(self.root / self.names[index], "an image file")

    def _label_file(self, name: str) -> bytes | None:
        path = self.root / name
        return _content(path, "a label file") if os.path.isfile(path) else None


def _content(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"{printable(str(path))}: cannot be read ({error.strerror})"
        raise UserError(f"{reason}, expected {expected} that can be read") from error
