"""The two formats of torch.save, read without torch.load.

torch.load(weights_only=True) runs no code either, but a file of 300 bytes can make it ask for terabytes (bytearray is
on its list), and the pickles of NVIDIA need the older format inside anyway.
"""

import io
import mmap
import struct
import zipfile
from typing import IO, cast

import torch

from smartfast.interop.budget import Budget
from smartfast.interop.builders import Global, Storage, StorageType
from smartfast.interop.machine import Allowed, Machine
from smartfast.interop.records import printable

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STORAGES: Allowed = {
    ("torch", f"{name}Storage"): StorageType(dtype)
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def load_from_bytes(arguments: tuple[object, ...], budget: Budget) -> object:
    """torch.storage._load_from_bytes: one storage in the legacy format."""
    match arguments:
        case (bytes(content),):
            stream = io.BytesIO(content)
            if Machine(stream, {}, budget).run() == LEGACY_MAGIC:
                storage = read_legacy(stream, len(content), STORAGES, budget)
                if isinstance(storage, Storage):
                    return storage
    raise ValueError("the bytes of a storage are none")


def read_legacy(stream: IO[bytes], end: int, allowed: Allowed, budget: Budget) -> object:
    """The object in a legacy file, which `stream` holds up to the byte `end`; its magic number is read already."""
    storages: dict[str, Storage] = {}

    def persistent(identity: object) -> object:
        match identity:
            case ("storage", StorageType(dtype=dtype), str(key), str(), int(count), None) if count >= 0:
                if key not in storages:
                    budget.take(count * dtype.itemsize)
                    storages[key] = Storage(torch.empty(count, dtype=dtype, device="cpu"))
                return storages[key]
            case ("module", Global() as cls, str(), str()):
                return cls  # with the file and the text of its source
        raise ValueError("a storage is described in an unknown form")

    if Machine(stream, {}, budget).run() != LEGACY_PROTOCOL:
        raise ValueError(f"the protocol of torch.save is not {LEGACY_PROTOCOL}")
    system = Machine(stream, {}, budget).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("the bytes of its numbers are not little-endian")
    result = Machine(stream, allowed, budget, persistent).run()
    keys = Machine(stream, {}, budget).run()
    if not isinstance(keys, list) or keys != sorted(storages):
        raise ValueError("the list of its storages does not name them")
    for key in keys:
        _fill(storages[key].values, stream)
    expect_end(stream, end)
    return result


def expect_end(stream: IO[bytes], end: int) -> None:
    if stream.tell() != end:
        raise ValueError(f"it should end at byte {stream.tell()}, but has {end}")


def _fill(values: torch.Tensor, stream: IO[bytes]) -> None:
    (count,) = struct.unpack("<q", stream.read(8))
    content = stream.read(values.nbytes)
    if count != values.numel() or len(content) != values.nbytes:
        raise ValueError(f"a storage of {values.numel()} numbers has {count}, in {len(content)} bytes")
    if content:
        values.copy_(torch.frombuffer(bytearray(content), dtype=values.dtype))


def read_zip(mapping: mmap.mmap, allowed: Allowed, budget: Budget) -> object:
    """The object in a zip file of torch.save. Its tensors are parts of `mapping` where they are aligned."""
    with zipfile.ZipFile(cast(IO[bytes], mapping)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    budget.step(len(entries))
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("it has no data.pkl in one folder, as torch.save writes it")
    root = roots[0]
    storages: dict[tuple[str, torch.dtype], Storage] = {}

    def persistent(identity: object) -> object:
        match identity:
            case ("storage", StorageType(dtype=dtype), str(key), str(), int(count)):
                if (key, dtype) not in storages:
                    start, end = _extent(mapping, entries[f"{root}data/{key}"])
                    if end - start != count * dtype.itemsize:
                        raise ValueError(f"a storage of {count} numbers has {end - start} bytes")
                    budget.take(end - start)
                    storages[key, dtype] = Storage(_mapped(mapping, start, count, dtype))
                return storages[key, dtype]
        raise ValueError("a storage is described in an unknown form")

    if byteorder := entries.get(f"{root}byteorder"):
        start, end = _extent(mapping, byteorder)
        if mapping[start:end] != b"little":
            raise ValueError("the bytes of its numbers are not little-endian")
    start, end = _extent(mapping, entries[f"{root}data.pkl"])
    stream = io.BytesIO(mapping[start:end])
    result = Machine(stream, allowed, budget, persistent).run()
    expect_end(stream, end - start)
    return result


def _extent(mapping: mmap.mmap, info: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and end of an entry. Its checksum is not looked at, as torch.save may leave it out."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.header_offset < 0:
        raise ValueError(f"the entry {printable(info.filename)} is not stored as torch.save stores it")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(mapping, info.header_offset)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\3\4" or start + info.file_size > len(mapping):
        raise ValueError(f"the entry {printable(info.filename)} is not where the directory says")
    return start, start + info.file_size


def _mapped(mapping: mmap.mmap, start: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    if count == 0:
        return torch.empty(0, dtype=dtype, device="cpu")
    if start % dtype.itemsize == 0:
        return torch.frombuffer(mapping, dtype=dtype, count=count, offset=start)
    return torch.frombuffer(bytearray(mapping[start : start + count * dtype.itemsize]), dtype=dtype)
