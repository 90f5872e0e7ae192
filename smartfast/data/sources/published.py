"""Data sets in the files that their authors publish: CIFAR-10 and -100 (python version) and MNIST and its likes."""

import gzip
import io
import math
import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from smartfast.core.text import printable
from smartfast.data.sources.arrays import ArraySource
from smartfast.errors import UserError

_CIFAR_SHAPE = (3, 32, 32)
_CIFAR = {  # files of the training images, of the class names; keys of the labels, of the class names
    "cifar-10": ([f"data_batch_{number}" for number in range(1, 6)], "batches.meta", b"labels", b"label_names"),
    "cifar-100": (["train"], "meta", b"fine_labels", b"fine_label_names"),
}
_UBYTE_OF_THREE_DIMENSIONS = b"\0\0\x08\x03"
_UBYTE_OF_ONE_DIMENSION = b"\0\0\x08\x01"


def is_cifar(path: Path) -> bool:
    """Whether the name is that of a compressed tar, the only kind there is here."""
    return path.name.lower().endswith((".tar.gz", ".tgz"))


def cifar_source(path: Path) -> ArraySource:
    """The training images of `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, whose labels are the fine ones.

    Raises:
        UserError: It is neither, or damaged.
    """
    try:
        found = _unpack(path)
        name = next((name for name, (files, *_) in _CIFAR.items() if files[0] in found), None)
        if name is None:
            raise ValueError("neither data_batch_1 nor train is there")
        files, meta, labels_key, names_key = _CIFAR[name]
        images = np.concatenate([found[file][b"data"].reshape(-1, *_CIFAR_SHAPE) for file in files])
        labels = np.concatenate([found[file][labels_key] for file in files])
        class_names = [printable(label.decode()) for label in found[meta][names_key]]
        if images.dtype != np.uint8 or len(labels) != len(images):
            raise ValueError(f"{images.dtype} {list(images.shape)} and {len(labels)} labels")
    except Exception as error:  # tarfile, gzip and pickle raise nearly anything on damaged files
        raise _unreadable(path, "CIFAR archive", error, "cifar-10-python.tar.gz or cifar-100-python.tar.gz") from error
    return ArraySource(name, printable(str(path)), torch.from_numpy(images).movedim(1, 3), labels, class_names)


def is_idx(path: Path) -> bool:
    """Whether the name is that of images in MNIST's format."""
    return "idx3-ubyte" in path.name


def idx_source(path: Path) -> ArraySource:
    """Images such as `train-images-idx3-ubyte`, plain or .gz, with the labels of the file beside it, if there is one,
    which may be compressed where the images are not, or the other way round.

    Raises:
        UserError: They are damaged, or something else.
    """
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    other = beside.with_suffix("") if beside.suffix == ".gz" else beside.with_name(f"{beside.name}.gz")
    found = next((file for file in (beside, other) if file.is_file()), None)
    images = _read_idx(path, _UBYTE_OF_THREE_DIMENSIONS)
    labels = None if found is None else _read_idx(found, _UBYTE_OF_ONE_DIMENSION)
    return ArraySource(printable(path.name), printable(str(path)), torch.from_numpy(images)[..., None], labels)


def _read_idx(path: Path, magic: bytes) -> np.ndarray:
    """Big-endian: magic number, length of each dimension, values."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if content[:4] != magic:
            raise ValueError(f"it begins with {content[:4]!r}, expected {magic!r}")
        start = 4 + 4 * magic[3]
        shape = np.frombuffer(content[4:start], ">u4").tolist()
        if len(content) - start != math.prod(shape) or not all(shape):
            raise ValueError(f"{len(content) - start} bytes for {shape}")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
    except Exception as error:  # gzip raises nearly anything on damaged files
        raise _unreadable(path, "idx file", error, "an intact one of bytes, as MNIST's") from error


class _Arrays(pickle.Unpickler):
    """Reads lists, texts and NumPy's arrays; a pickle can ask for any other function, and none of them is run."""

    _ALLOWED = frozenset(
        [("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpack(path: Path) -> dict[str, Any]:
    """The pickled files of the archive that are needed, by their names without folders."""
    wanted = {name for files, meta, *_ in _CIFAR.values() for name in [*files, meta]}
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name, file = PurePosixPath(member.name).name, archive.extractfile(member)
            if name in wanted and file is not None:
                found[name] = _Arrays(io.BytesIO(file.read()), encoding="bytes").load()
    return found


def _unreadable(path: Path, kind: str, error: Exception, expected: str) -> UserError:
    reason = printable(str(error)) or type(error).__name__
    return UserError(f"data.path: {printable(str(path))} is no readable {kind} ({reason}), expected {expected}")
