"""What every source of images offers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from PIL import Image

Mode = Literal["L", "RGB", "RGBA"]
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}


class ImageInfo(NamedTuple):
    """What is known of an image that can be decoded."""

    width: int
    height: int
    mode: Mode
    stamp: str
    """Changes (almost surely) when the content of the image changes, wherever it lies."""
    several_frames: bool = False
    """Whether there is more to it than the frame that is taken, the first."""


class Version(NamedTuple):
    """Of an image's file: an image whose version is as it was is not opened again."""

    name: str
    """The image's own name in its data set, whatever the place of that."""
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    """When the file was last changed as the file system counts, which nobody can set back."""


class Labels(NamedTuple):
    """Labels as found, not yet checked."""

    values: Sequence[object]
    """One per image."""
    class_names: Sequence[str] | None = None
    """What class 0, 1, ... is called; None where nobody says."""


class Source(Protocol):
    """A list of images. Safe to use from several threads, and from worker processes."""

    name: str
    """Short name of the data set, for messages and reports; printable."""
    place: str
    """Absolute path or address of the data set; printable."""

    def __len__(self) -> int: ...

    def item_name(self, index: int) -> str:
        """Where the image is, for messages; the same on every machine up to the folder of the data set. Printable."""

    def own_name(self, index: int) -> str:
        """The image's name without those of the data set and of its place, as the fingerprint has it."""

    def versions(self) -> list[Version] | None:
        """The version of every image, found without opening one; None if that is not cheaper than to read them."""

    def inspect(self, index: int) -> ImageInfo:
        """Read and decode the image. Raises UserError naming the item if training could not."""

    def decode(self, index: int) -> Image.Image:
        """The image in one of the three modes. Raises UserError naming the item if it cannot be decoded."""

    def labels(self) -> Labels | None:
        """The labels, None if the source has none."""


def file_version(name: str, path: str | Path) -> Version:
    """The version of an image in a file of its own; one that never occurs if there is no such file."""
    try:
        state = os.stat(path)
    except OSError:  # whoever opens it says so
        return Version(name, -1, -1, -1)
    return Version(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
