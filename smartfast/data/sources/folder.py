"""A folder of image files, searched with its sub-folders."""

import os
import warnings
import zlib
from pathlib import Path, PurePosixPath

from PIL import Image

from smartfast.data.sources.base import IMAGE_SUFFIXES, ImageInfo, Version, decode_image, file_version, inspect_image
from smartfast.data.sources.labels import LABEL_FILE, file_labels
from smartfast.errors import UserError

_STAMPED_BYTES = 4096


class FolderSource:
    """Images of a folder in the order of their relative paths; see `Source`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        self.place = str(root.resolve())
        found = [
            (Path(folder) / file).relative_to(root).as_posix()
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
        ]
        self.names = select_images(found, str(root))

    def __len__(self) -> int:
        return len(self.names)

    def item_name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def versions(self) -> list[Version]:
        return [file_version(name, self.root / name) for name in self.names]

    def inspect(self, index: int) -> ImageInfo:
        path = self.root / self.names[index]
        width, height, mode = inspect_image(path, self.item_name(index))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_STAMPED_BYTES)
            file.seek(max(0, size - _STAMPED_BYTES))
            stamp = f"{size}:{zlib.crc32(head + file.read()):08x}"
        return ImageInfo(width, height, mode, stamp)

    def decode(self, index: int) -> Image.Image:
        return decode_image(self.root / self.names[index], self.item_name(index))

    def labels(self) -> list[object] | None:
        label_file = self.root / LABEL_FILE
        return file_labels(self.names, label_file.read_bytes() if label_file.is_file() else None, str(self.root))


def select_images(names: list[str], where: str) -> list[str]:
    """The names of images among `names`, sorted; hidden files do not count, other files are warned of.

    Raises:
        UserError: There is no image.
    """
    visible = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    images = sorted(name for name in visible if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"data.path: {where} holds no image, expected files {' '.join(sorted(IMAGE_SUFFIXES))}")
    others = sorted(set(visible) - set(images) - {LABEL_FILE})
    if others:
        warnings.warn(f"{where}: {len(others)} files that are no images are left out, e.g. {others[0]}", stacklevel=2)
    return images
