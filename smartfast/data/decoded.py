"""Decoded images, kept on the disk: decoded by one process of a machine, mapped into memory by all, at every start.

One .safetensors file per data set, which holds its images and says which version of which file each was decoded from.
"""

import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smartfast.core.files import appears_complete
from smartfast.core.parallel import ordered_map
from smartfast.data.kept import kept_file, made_by_one_process
from smartfast.data.sources.base import Source, Version

LIMIT_BYTES = 32 * 2**30
"""Of disk for the decoded images of all data sets together."""
_FREE_FRACTION = 0.5
"""At most this part of what is free on the disk is taken."""

_FORMAT = "2"
"""To be raised when decoding the same file gives other pixels."""
_DIGEST_BYTES = 16
_GIB = 2**30

_Decode = Callable[[int], Tensor]


def decoded_images(
    source: Source, versions: Sequence[Version] | None, shape: tuple[int, int, int], decode: _Decode
) -> Tensor:
    """All images of a data set, uint8 [len, C, H, W]; only those are decoded that are not kept.

    Args:
        source: Where the images are.
        versions: The state of their files, taken before this call; None decodes them all and keeps nothing.
        shape: C, H, W of every image.
        decode: From an index to the image, uint8 of that shape; called in threads.

    Raises:
        UserError: As `decode`, for the first image of which it does.
    """
    if versions is None:
        return _complete(source, torch.empty(len(source), *shape, dtype=torch.uint8), range(len(source)), decode)
    path, digests = kept_file(source.place, ".safetensors"), _digests(versions)
    try:
        kept = _read(path, source.place, shape)
    except ValueError:  # reported by the process that makes it anew
        kept = None
    if kept is not None and torch.equal(kept[1], digests):
        return kept[0]
    with made_by_one_process(path, "decodes all images") as is_writable:
        kept = _read_or_warn(path, source.place, shape)
        if kept is not None and torch.equal(kept[1], digests):
            return kept[0]
        images, missing = _take(kept, digests, shape)
        _complete(source, images, missing, decode)
        if is_writable:
            _keep(path, source.place, images, digests)
    return images


def _digests(versions: Sequence[Version]) -> Tensor:
    """What tells versions apart, uint8 [len, _DIGEST_BYTES]."""
    texts = ("\0".join(map(str, version[::-1])) for version in versions)
    joined = b"".join(hashlib.blake2b(os.fsencode(text), digest_size=_DIGEST_BYTES).digest() for text in texts)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(-1, _DIGEST_BYTES)


def _take(
    kept: tuple[Tensor, Tensor] | None, digests: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Sequence[int]]:
    """The images that are kept, in their places, and the indices of all others."""
    images = torch.empty(len(digests), *shape, dtype=torch.uint8)
    if kept is None:
        return images, range(len(digests))
    row = {digest.tobytes(): number for number, digest in enumerate(kept[1].numpy())}
    rows = [row.get(digest.tobytes()) for digest in digests.numpy()]
    for index, found in enumerate(rows):
        if found is not None:
            images[index] = kept[0][found]
    return images, [index for index, found in enumerate(rows) if found is None]


def _complete(source: Source, images: Tensor, missing: Sequence[int], decode: _Decode) -> Tensor:
    decoded = ordered_map(decode, missing, total=len(missing), title=f"Decoding {source.name}")
    for index, image in zip(missing, decoded, strict=True):
        images[index] = image
    return images


def _read(path: Path, place: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor] | None:
    """Images, mapped into memory, and digests; None without a file or with images of another shape.

    Raises:
        ValueError: There is a file, but not one with decoded images of the data set at `place`.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            written = file.metadata() or {}
            images, digests = file.get_tensor("images"), file.get_tensor("digests")
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error
    if (written.get("format"), written.get("place")) != (_FORMAT, place):
        raise ValueError(f"expected format {_FORMAT} of {place}")
    if images.dtype != torch.uint8 or digests.shape != (len(images), _DIGEST_BYTES):
        raise ValueError(f"found {images.dtype} images and digests {list(digests.shape)}")
    if written.get("crc32") != _crc32(images):
        raise ValueError("the images are not as they were written")
    with suppress(OSError):  # a folder that can only be read serves too
        os.utime(path)  # what has not been used for longest makes room
    return (images, digests) if images.shape[1:] == shape else None


def _read_or_warn(path: Path, place: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor] | None:
    try:
        return _read(path, place, shape)
    except ValueError as error:
        warnings.warn(f"decoded images {path} cannot be used ({error}): made anew", stacklevel=2)
        return None


def _keep(path: Path, place: str, images: Tensor, digests: Tensor) -> None:
    try:
        _make_room(path, images.nbytes)
        with appears_complete(path) as partial:
            written = {"format": _FORMAT, "place": place, "crc32": _crc32(images)}
            save_file({"images": images, "digests": digests}, partial, written)
    except (OSError, SafetensorError) as error:
        consequence = "every process decodes them at every start"
        warnings.warn(f"decoded images {path} cannot be kept ({error}): {consequence}", stacklevel=2)


def _crc32(images: Tensor) -> str:
    """A second per GiB, of images that are all read after it anyway."""
    return f"{zlib.crc32(images.numpy().data):08x}"


def _make_room(path: Path, needed_bytes: int) -> None:
    """Removes what has not been used for longest. Raises OSError if there is not enough room even then."""
    others = sorted(
        (file for file in path.parent.glob(f"*{path.suffix}") if file != path), key=lambda file: file.stat().st_mtime
    )
    for abandoned in path.parent.glob(f".{path.name}.*.partial"):  # by a process that was killed
        abandoned.unlink()
    taken_bytes = {file: file.stat().st_size for file in others}
    if needed_bytes > LIMIT_BYTES:
        raise OSError(f"{needed_bytes / _GIB:.1f} GiB, at most {LIMIT_BYTES / _GIB:.1f} GiB are kept")
    while sum(taken_bytes.values()) + needed_bytes > LIMIT_BYTES:
        oldest = others.pop(0)
        oldest.unlink()
        del taken_bytes[oldest]
    free_bytes = shutil.disk_usage(path.parent).free
    if needed_bytes > _FREE_FRACTION * free_bytes:
        raise OSError(f"{needed_bytes / _GIB:.1f} GiB, and {free_bytes / _GIB:.1f} GiB free on the disk")
