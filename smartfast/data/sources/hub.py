"""A Hugging Face data set, read through the `datasets` library."""

from typing import Any

from smartfast.core.text import printable
from smartfast.data.sources.base import Labels, Version, file_version
from smartfast.data.sources.encoded import EncodedSource
from smartfast.errors import UserError

PREFIX = "hf:"
_DEFAULT_SPLIT = "train"


class HubSource(EncodedSource):
    """The rows of one split of `hf:owner/name[:split]` (default split: train); see `Source`.

    The image column is the first of type Image, the labels the first of type ClassLabel, else `label` or `labels`.
    """

    def __init__(self, address: str) -> None:
        try:
            import datasets  # optional: only the hf extra installs it
        except ImportError as error:
            raise UserError(f"data.path: {address} needs the package datasets: pip install datasets") from error
        name, _, split = address.removeprefix(PREFIX).partition(":")
        try:
            rows = datasets.load_dataset(name, split=split or _DEFAULT_SPLIT)
        except Exception as error:  # network, authentication, missing names and splits each raise their own kind
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UserError(f"data.path: {address} not loaded ({reason}), expected hf:owner/name[:split]") from error
        columns: dict[str, Any] = rows.features
        image_column = next((key for key, kind in columns.items() if isinstance(kind, datasets.Image)), None)
        if image_column is None:
            raise UserError(f"data.path: {address} has columns {', '.join(columns)}, expected one of type Image")
        classes = [key for key, kind in columns.items() if isinstance(kind, datasets.ClassLabel)]
        label_columns = classes + [key for key in ("label", "labels") if key in columns]
        self.name = name.rsplit("/", 1)[-1]
        self.place = f"{PREFIX}{name}:{split or _DEFAULT_SPLIT}"
        self._address = address
        self._image_column = image_column
        # The library decodes every column of a row that is read: images and labels are read without the others.
        self._rows = rows.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        self._labels = rows.select_columns(label_columns[:1]) if label_columns else None
        if len(self) == 0:
            raise UserError(f"data.path: {address} holds no image, expected at least one row")

    def __len__(self) -> int:
        return len(self._rows)

    def item_name(self, index: int) -> str:
        return f"{self._address}: row {index}"

    def own_name(self, index: int) -> str:
        return f"row {index}"

    def versions(self) -> list[Version] | None:
        """Rows either hold their images, and change with the library's files on this machine, or all name files.

        The first row tells which; so do the libraries that write such data sets.
        """
        first = self._rows[0][self._image_column]
        if first is not None and first["bytes"] is None:
            paths = [cell and cell["path"] for cell in self._rows[self._image_column]]
            return [file_version(f"row {index} {path}", path or "") for index, path in enumerate(paths)]
        files = [file_version("", file["filename"]) for file in self._rows.cache_files]
        if not files:  # rows in memory
            return None
        size_bytes = sum(file.size_bytes for file in files)
        times = max(file.mtime_ns for file in files), max(file.ctime_ns for file in files)
        return [Version(f"row {index}", size_bytes, *times) for index in range(len(self))]

    def labels(self) -> Labels | None:
        if self._labels is None:
            return None
        [(column, kind)] = self._labels.features.items()
        names = getattr(kind, "names", None)
        return Labels(list(self._labels[column]), names and [printable(name) for name in names])

    def _read(self, index: int) -> bytes:
        """The row holds its image, or names the file of it."""
        cell = self._rows[index][self._image_column]
        if cell is None:
            raise UserError(f"{self.item_name(index)}: no image, expected one in every row")
        if cell["bytes"] is not None:
            return cell["bytes"]
        try:
            with open(cell["path"], "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"{self.item_name(index)}: {error}, expected a readable image file") from error
