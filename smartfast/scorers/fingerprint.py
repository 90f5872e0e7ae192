"""Tells the files of one scorer from those of another, wherever they lie."""

import hashlib
from pathlib import Path

_SUFFIXES = (".json", ".safetensors", ".bin", ".pt", ".pth", ".pkl")
_BLOCKS, _BLOCK_BYTES = 256, 4096


def fingerprint_of(path: Path) -> str:
    """16 hex digits of the weights and settings in a file, or in a folder and those below it.

    Of each file its size and 256 blocks of 4 KiB, evenly spread, are read, so that gigabytes take no time: training
    moves every weight. The name of the file or folder itself does not count.

    Args:
        path: Of the scorer; it exists.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
    digest = hashlib.sha256()
    for file in files:
        size_bytes = file.stat().st_size
        digest.update(f"{'' if file == path else file.relative_to(path).as_posix()}:{size_bytes}:".encode())
        with file.open("rb") as content:
            for start in range(0, size_bytes, max(_BLOCK_BYTES, size_bytes // _BLOCKS)):
                content.seek(start)
                digest.update(content.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
