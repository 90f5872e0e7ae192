"""A .zip of image files, as the dataset_tool of stylegan2-ada-pytorch and stylegan3 writes it."""

import os
import zipfile
from pathlib import Path

from smartfast.core.text import printable
from smartfast.data.sources.base import Labels, Version, file_version
from smartfast.data.sources.encoded import EncodedSource
from smartfast.data.sources.labels import file_labels
from smartfast.data.sources.names import select_images, zip_names
from smartfast.errors import UserError


class ArchiveSource(EncodedSource):
    """Images of a .zip in the order of their names; see `Source`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = printable(str(path.resolve()))
        self._where = printable(str(path))
        self._open: dict[int, zipfile.ZipFile] = {}
        self.name = printable(path.stem)
        self._entries = zip_names(self._archive().namelist(), self._where)
        self.names = select_images(self._entries, self._where)

    def __len__(self) -> int:
        return len(self.names)

    def item_name(self, index: int) -> str:
        return f"{self._where}/{printable(self.names[index])}"

    def versions(self) -> list[Version]:
        """All change with the archive."""
        archive = file_version("", self.path)
        return [archive._replace(name=name) for name in self.names]

    def labels(self) -> Labels | None:
        return file_labels(self.names, self._label_file, self._where)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}

    def _archive(self) -> zipfile.ZipFile:
        """One open file per process: a forked worker that shared its parent's would move the parent's position."""
        process_id = os.getpid()
        if process_id not in self._open:
            try:
                self._open[process_id] = zipfile.ZipFile(self.path)
            except Exception as error:  # zipfile raises nearly anything on a corrupt table of contents
                reason = f"data.path: {self._where} is not a readable .zip ({printable(str(error))})"
                raise UserError(f"{reason}, expected an intact one") from error
        return self._open[process_id]

    def _read(self, index: int) -> bytes:
        return self._content(self.names[index])

    def _label_file(self, name: str) -> bytes | None:
        return self._content(name) if name in self._entries else None

    def _content(self, name: str) -> bytes:
        try:
            return self._archive().read(self._entries[name])
        except Exception as error:  # as do its decompressors on corrupt entries
            where = f"{self._where}/{printable(name)}"
            raise UserError(f"{where}: corrupt entry ({printable(str(error))}), expected an intact .zip") from error
