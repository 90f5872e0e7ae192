"""A .zip of image files, as the dataset_tool of stylegan2-ada-pytorch and stylegan3 writes it."""

import io
import os
import zipfile
from pathlib import Path

from PIL import Image

from smartfast.data.sources.base import ImageInfo, Version, decode_image, file_version, inspect_image
from smartfast.data.sources.folder import select_images
from smartfast.data.sources.labels import LABEL_FILE, file_labels
from smartfast.errors import UserError


class ArchiveSource:
    """Images of a .zip in the order of their names; see `Source`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path.resolve())
        self._open: dict[int, zipfile.ZipFile] = {}
        self.name = path.stem
        self.names = select_images([name for name in self._archive().namelist() if name[-1] != "/"], str(path))

    def __len__(self) -> int:
        return len(self.names)

    def item_name(self, index: int) -> str:
        return f"{self.path}/{self.names[index]}"

    def versions(self) -> list[Version]:
        """All change with the archive."""
        archive = file_version("", self.path)
        return [archive._replace(name=name) for name in self.names]

    def inspect(self, index: int) -> ImageInfo:
        width, height, mode = inspect_image(self._read(index), self.item_name(index))
        entry = self._archive().getinfo(self.names[index])
        return ImageInfo(width, height, mode, f"{entry.file_size}:{entry.CRC:08x}")

    def decode(self, index: int) -> Image.Image:
        return decode_image(self._read(index), self.item_name(index))

    def labels(self) -> list[object] | None:
        archive = self._archive()
        label_file = archive.read(LABEL_FILE) if LABEL_FILE in archive.namelist() else None
        return file_labels(self.names, label_file, str(self.path))

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}

    def _archive(self) -> zipfile.ZipFile:
        """One open file per process: a forked worker that shared its parent's would move the parent's position."""
        process_id = os.getpid()
        if process_id not in self._open:
            try:
                self._open[process_id] = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                reason = f"data.path: {self.path} is not a readable .zip ({error})"
                raise UserError(f"{reason}, expected an intact one") from error
        return self._open[process_id]

    def _read(self, index: int) -> io.BytesIO:
        try:
            return io.BytesIO(self._archive().read(self.names[index]))
        except Exception as error:  # zipfile and the decompressors raise nearly anything on corrupt entries
            raise UserError(f"{self.item_name(index)}: corrupt entry ({error}), expected an intact .zip") from error
