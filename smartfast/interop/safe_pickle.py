"""Reads weight files of other projects as data."""

import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, cast

from smartfast.errors import UserError
from smartfast.interop.allowed import PICKLES, TORCH_FILES
from smartfast.interop.budget import Budget
from smartfast.interop.machine import Machine
from smartfast.interop.records import check_tree
from smartfast.interop.torch_files import LEGACY_MAGIC, expect_end, read_legacy, read_zip

DAMAGED = (ValueError, IndexError, KeyError, OverflowError, struct.error, zipfile.BadZipFile, NotImplementedError)
"""What decoding bytes that are no weights raises; NotImplementedError is zipfile's, for a format it lacks."""


def read_untrusted(path: Path) -> dict[str, object]:
    """The dictionary in a weight file: a pickle of NVIDIA's projects or R3GAN, or a file of torch.save.

    Nothing the file names is imported or called, and memory stays within a few times the file's size. Values are
    plain containers, numbers, texts, CPU tensors, numpy arrays, dtypes, and a `Record` for each object of another
    class. Ordered and easy dictionaries are dictionaries, numpy scalars are numbers of Python. Tensors may share memory
    with each other and be parts of the file, mapped privately: copy what is to outlive it.

    Raises UserError, in one line that names the file, where it cannot be opened, is damaged, or asks for anything else.
    """
    try:
        with open(path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: the file is empty") from error
    try:
        content = _read(mapping)
        check_tree(content)
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read as weights: {_in_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dictionary")
    return content


def _read(mapping: mmap.mmap) -> object:
    if mapping[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ValueError(f"it begins with {mapping[:20]!r}, like no pickle and no file of torch.save")
    budget = Budget(len(mapping))
    if mapping[:2] == b"PK":
        return read_zip(mapping, TORCH_FILES, budget)
    stream = cast(IO[bytes], mapping)
    content = Machine(stream, PICKLES, budget).run()
    if isinstance(content, int) and content == LEGACY_MAGIC:
        return read_legacy(stream, len(mapping), TORCH_FILES, budget)
    expect_end(stream, len(mapping))
    return content


def _in_one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split())[:300]
