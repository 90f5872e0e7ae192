"""Opens a data set and checks all of it, so that bad data are found before training starts."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from smartfast.config.schema import DataConfig
from smartfast.core.draws import are_vectors
from smartfast.core.files import user_path
from smartfast.core.parallel import ordered_map
from smartfast.core.plane import PREFIX as PLANE_PREFIX
from smartfast.core.plane import draw_points, shape_named
from smartfast.core.text import printable
from smartfast.data.decoded import decoded_images
from smartfast.data.index import inspect_images
from smartfast.data.sources.archive import ArchiveSource
from smartfast.data.sources.arrays import ArraySource, digits_source, npz_source
from smartfast.data.sources.base import CHANNELS, ImageInfo, Source, Version
from smartfast.data.sources.folder import FolderSource
from smartfast.data.sources.hub import PREFIX as HUB_PREFIX
from smartfast.data.sources.hub import HubSource
from smartfast.data.sources.labels import Classes, training_classes
from smartfast.data.sources.published import cifar_source, idx_source, is_cifar, is_idx
from smartfast.data.sources.shards import ShardsSource, is_sharded
from smartfast.errors import UserError

DIGITS = "digits"
POINTS = 4096
"""Of a data set in the plane."""
_SMALLEST_RESOLUTION = 4
_SHOWN_CLASSES = 10
_KINDS = "digits, a folder, .zip, .npz, CIFAR's .tar.gz, MNIST's idx3-ubyte or hf:owner/name"
_REMEDY = "`smartfast dataset` makes images alike"


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Checked square images of one size, decoded when asked for.

    Attributes:
        name: Short name of the data set.
        resolution: Height and width in pixels, a power of two.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        num_classes: Number of classes, or of the numbers of a label vector; 0 when labels are not used.
        labels: Class indices int64 [len], label vectors float32 [len, num_classes], or None when labels are not used.
        class_names: What class, or number of the vector, 0, 1, ... is called; None when labels are not used, or nobody
            says.
        fingerprint: 16 hex digits that change with the names, sizes, contents, labels or resolution of the images, and
            with nothing else: the same data elsewhere have the same.
    """

    def __init__(
        self,
        source: Source,
        versions: list[Version] | None,
        infos: list[ImageInfo],
        classes: Classes | None,
    ) -> None:
        """`infos` describes every image of `source` at its version; all are of the same size and mode."""
        self.source, self._versions = source, versions
        self.name = source.name
        self.resolution = infos[0].width
        self.channels = CHANNELS[infos[0].mode]
        self.labels = None if classes is None else _as_tensor(classes)
        self.num_classes = 0 if classes is None else classes.num_classes
        self.class_names = None if classes is None else classes.names
        self._hashed = partial(_fingerprint, infos[0], self.labels)
        stamps = [info.stamp for info in infos]
        self.fingerprint = self._hashed(map(source.own_name, range(len(infos))), stamps)
        self._recorded_as = {self.fingerprint}
        if isinstance(source, ArraySource | HubSource):
            self._recorded_as.add(self._hashed(_last_parts(source), stamps))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [C, H, W] and class (0 without). Raises UserError if the image cannot be decoded."""
        return self.image(index), 0 if self.labels is None or are_vectors(self.labels) else int(self.labels[index])

    def image(self, index: int) -> Tensor:
        """Image uint8 [C, H, W]. Raises UserError if it cannot be decoded to the size that its header promised."""
        pixels = torch.from_numpy(np.array(self.source.decode(index)))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0)
        expected = (self.channels, self.resolution, self.resolution)
        if tuple(pixels.shape) != expected:
            found = f"{list(pixels.shape)} (channels, height, width) when decoded"
            raise UserError(f"{self.source.item_name(index)}: {found}, expected {list(expected)}")
        return pixels

    def was_recorded_as(self, fingerprint: str) -> bool:
        """Whether a run may have recorded this data set under `fingerprint`.

        Runs on one file of arrays, or on `hf:` rows, once went by its name or address too. Runs on folders once went by
        the first and last 4 KiB of each file, which are read again here.
        """
        if fingerprint in self._recorded_as or not isinstance(self.source, FolderSource):
            return fingerprint in self._recorded_as
        count = len(self)
        stamps = ordered_map(self.source.stamp_of_ends, range(count), total=count, title=f"Comparing {self.name}")
        return fingerprint == self._hashed(_last_parts(self.source), stamps)

    def all_images(self) -> Tensor:
        """All images, uint8 [len, C, H, W], decoded once on this machine; not to be written to.

        Raises UserError for the first corrupt one.
        """
        shape = (self.channels, self.resolution, self.resolution)
        return decoded_images(self.source, self._versions, shape, self.image)


class PointDataset(ImageDataset):
    """Points of the plane, such as plane:ring, as images float32 [2, 1, 1] of one pixel: two channels, no source."""

    def __init__(self, name: str) -> None:
        points = draw_points(shape_named(name, "data.path"), POINTS)
        self._images = points[:, :, None, None]
        self.name, self.resolution, self.channels = name, 1, 2
        self.labels, self.num_classes, self.class_names = None, 0, None
        self.fingerprint = hashlib.sha256(points.numpy().tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> Tensor:
        """Point float32 [2, 1, 1]."""
        return self._images[index]

    def was_recorded_as(self, fingerprint: str) -> bool:
        return fingerprint == self.fingerprint

    def all_images(self) -> Tensor:
        """All points, float32 [len, 2, 1, 1]; not to be written to."""
        return self._images


def open_source(path: str, resolution: int | None = None) -> Source:
    """The images at `path`, whose kind its name tells (`_KINDS`); they are not checked yet.

    Args:
        path: As `data.path`.
        resolution: Enlarges the digits; other sources do not look at it.

    Raises:
        UserError: There is nothing there, or no image in it, or it is of no known kind.
    """
    if path == DIGITS:
        return digits_source(resolution)
    if path.startswith(HUB_PREFIX):
        return HubSource(path)
    place = user_path(path, "data.path")
    path = printable(path)
    if place.is_dir():
        return ShardsSource(place) if is_sharded(place) else FolderSource(place)
    if not place.exists():
        raise UserError(f"data.path: {path} does not exist, expected {_KINDS}")
    if place.suffix.lower() == ".zip":
        return ArchiveSource(place)
    if place.suffix.lower() == ".npz":
        return npz_source(place)
    if is_cifar(place):
        return cifar_source(place)
    if is_idx(place):
        return idx_source(place)
    raise UserError(f"data.path: {path} is of no known kind, expected {_KINDS}")


def open_dataset(config: DataConfig) -> ImageDataset:
    """Open a data set and inspect every image of it, so that none fails when training needs it.

    One process of a machine inspects each image whose file is not as it was when it was last inspected; see `index`.
    That takes as long as decoding them all, once.

    Args:
        config: path, resolution, labels and workers are looked at.

    Raises:
        UserError: The data cannot be trained on; names the first image that is in the way.
    """
    if config.workers < 0:
        raise UserError(f"data.workers: {config.workers}, expected 0 or more")
    if config.path.startswith(PLANE_PREFIX):
        return _open_points(config)
    if config.resolution is not None:
        _check_resolution("data.resolution", config.resolution)
    source = open_source(config.path, config.resolution)
    versions = source.versions()
    infos = inspect_images(source, versions, _Check(source, config.resolution))
    warn_of_frames(source, [index for index, info in enumerate(infos) if info.several_frames])
    return ImageDataset(source, versions, infos, training_classes(source) if config.labels else None)


def _open_points(config: DataConfig) -> PointDataset:
    for name, is_wrong in (("resolution", config.resolution is not None), ("labels", config.labels)):
        if is_wrong:
            raise UserError(f"data.{name} is {getattr(config, name)}, expected unset: {config.path} is of points")
    return PointDataset(config.path)


def described_classes(dataset: ImageDataset) -> str:
    """For the line on a data set: `, 2 classes: 0 cat, 1 dog`, or `, label vectors of 2`; empty without labels."""
    if not dataset.num_classes:
        return ""
    count = f", {dataset.num_classes} classes"
    if are_vectors(dataset.labels):
        count = f", label vectors of {dataset.num_classes}"
    named = [f"{number} {name}" for number, name in enumerate(dataset.class_names or ()) if name != str(number)]
    if len(named) > _SHOWN_CLASSES:
        named[2:-1] = ["..."]
    return f"{count}: {', '.join(named)}" if named else count


def warn_of_frames(source: Source, indices: list[int]) -> None:
    """Say that of the images at `indices` only the first frame is taken."""
    if indices:
        what = f"{len(indices)} images have several frames, of which the first is taken"
        warnings.warn(f"{source.name}: {what}, e.g. {source.item_name(indices[0])}", stacklevel=3)


class _Check:
    """Refuses the first image that is not of the wanted size, or unlike the images before it."""

    def __init__(self, source: Source, resolution: int | None) -> None:
        self.source, self.resolution = source, resolution
        self.first: ImageInfo | None = None

    def __call__(self, index: int, info: ImageInfo) -> None:
        if self.first is None or info[:3] != self.first[:3]:
            _check_info(self.source.item_name(index), info, self.first, self.resolution)
        self.first = self.first or info


def _check_info(item_name: str, info: ImageInfo, first: ImageInfo | None, resolution: int | None) -> None:
    size = f"{info.width}x{info.height} pixels"
    if resolution is not None and (info.width, info.height) != (resolution, resolution):
        raise UserError(f"{item_name}: {size}, expected {resolution}x{resolution} (data.resolution); {_REMEDY}")
    if info.width != info.height:
        raise UserError(f"{item_name}: {size}, expected a square image; {_REMEDY}")
    if first is None:
        _check_resolution(item_name, info.width)
        return
    if info.width != first.width:
        raise UserError(f"{item_name}: {size}, expected {first.width}x{first.height} as the first image; {_REMEDY}")
    if info.mode != first.mode:
        raise UserError(f"{item_name}: {info.mode} image, expected {first.mode} as the first image; {_REMEDY}")


def _check_resolution(where: str, resolution: int) -> None:
    if resolution < _SMALLEST_RESOLUTION or resolution & (resolution - 1):
        expected = f"a power of two from {_SMALLEST_RESOLUTION} up"
        nearest = max(_SMALLEST_RESOLUTION, 1 << (resolution - 1).bit_length())
        raise UserError(f"{where}: {resolution} pixels, expected {expected}; {_REMEDY} (--resolution {nearest})")


def _as_tensor(classes: Classes) -> Tensor:
    if classes.vectors is None:
        return torch.tensor(classes.numbers)
    return torch.tensor(classes.vectors, dtype=torch.float32)


def _last_parts(source: Source) -> Iterator[str]:
    """The names that older fingerprints go by: numbers stand after that of the file, or the address."""
    return (Path(source.item_name(index)).name for index in range(len(source)))


def _fingerprint(alike: ImageInfo, labels: Tensor | None, names: Iterable[str], stamps: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name, stamp in zip(names, stamps, strict=True):
        digest.update(f"{name}\0{alike.width}x{alike.height}\0{alike.mode}\0{stamp}\n".encode())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()[:16]
