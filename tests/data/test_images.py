"""Single images: what is intact is taken, however odd; what decoding would fail on is refused before training."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, features

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset
from smartfast.errors import UserError

Maker = Callable[..., Image.Image]
Writer = Callable[..., Path]


def opened(path: Path) -> ImageDataset:
    return open_dataset(DataConfig(path=str(path), cache="stream"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_exif(jpeg: bytes, *entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block with orientation 6 and raw entries (tag, type, count, 4 bytes of value), spliced into a JPEG."""
    rows = [struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), *(struct.pack("<HHI", *e[:3]) + e[3] for e in entries)]
    tail = struct.pack("<ii", -1, 0)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + struct.pack("<I", 0) + tail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def offset_behind(count: int) -> bytes:
    return struct.pack("<I", 8 + 2 + 12 * count + 4)


EXIF = {
    "no other entry": (),
    "negative rational resolution": ((0x11A, 10, 1, offset_behind(2)),),
    "unit stored as text": ((0x128, 2, 2, b"2\0\0\0"),),
    "text that is none": ((0x10F, 2, 4, b"\xff\xfe\xfd\xfc"),),
    "entry of an unknown type": ((0x11A, 99, 1, b"\0\0\0\0"),),
    "value beyond the end": ((0x11A, 5, 1, struct.pack("<I", 60000)),),
    "resolution stored as bytes": ((0x11A, 7, 4, b"abcd"),),
}


@pytest.mark.parametrize("case", EXIF)
def test_a_turned_jpeg_with_odd_exif(case: str, write_files: Writer) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:4, :, 0] = 255
    jpeg = with_exif(encoded(Image.fromarray(pixels), "JPEG"), *EXIF[case])
    image = opened(write_files({"0.jpg": jpeg})).image(0).float()
    assert image[0, :, -2:].mean() > 250 and image[0, :, :-6].mean() < 5, "the red band is on the right"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, random_image: Maker, write_files: Writer) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    image = random_image(0)
    turned = opened(write_files({"0.png": encoded(image, "PNG", exif=exif)})).image(0)
    pixels = torch.from_numpy(np.array(image)).movedim(2, 0)
    quarter = {1: 0, 2: 0, 3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}[orientation]
    truth = torch.rot90(pixels, quarter, (1, 2))
    assert torch.equal(turned, truth.flip(2) if orientation in (2, 4, 5, 7) else truth)


def test_exif_that_cannot_be_read_turns_nothing(random_image: Maker, write_files: Writer) -> None:
    jpeg = encoded(random_image(0), "JPEG")
    block = b"Exif\0\0II*\0\xff\xff\xff\xffgarbage"
    odd = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    dataset = opened(write_files({"0.jpg": odd, "1.jpg": jpeg}))
    assert torch.equal(dataset.image(0), dataset.image(1))


@pytest.mark.parametrize("megabytes", [1.5, 20])
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_png_with_long_text(kind: str, megabytes: float, random_image: Maker, write_files: Writer) -> None:
    info = PngImagePlugin.PngInfo()
    for number in range(3):
        text = "x" * int(megabytes * 2**20)
        if kind == "iTXt":
            info.add_itxt(f"history {number}", text, zip=True)
        else:
            info.add_text(f"history {number}", text, zip=kind == "zTXt")
    image = random_image(0)
    dataset = opened(write_files({"0.png": encoded(image, "PNG", pnginfo=info)}))
    assert torch.equal(dataset.image(0), torch.from_numpy(np.array(image)).movedim(2, 0))


KINDS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize("kept", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", [*KINDS, "progressive JPEG"])
def test_what_ends_too_soon_is_refused_before_training(
    kind: str, kept: float, place: str, random_image: Maker, write_files: Writer
) -> None:
    """Whatever the check lets pass, every image can be decoded while streaming."""
    options = {"progressive": True} if kind.startswith("progressive") else {}
    kind = kind.rpartition(" ")[2]
    content = encoded(random_image(0, (64, 64)), kind, **options)
    suffix = {"JPEG": "jpg"}.get(kind, kind.lower())
    files = {f"0.{suffix}": content, f"1.{suffix}": content[: int(kept * len(content))]}
    path = write_files(files, "set.zip" if place == "zip" else "set")
    with pytest.raises(UserError, match=rf"/1\.{suffix}: not a readable image \("):
        opened(path)


def test_a_byte_changed_anywhere_is_refused_or_can_be_decoded(random_image: Maker, write_files: Writer) -> None:
    """280 changes: 40 of each kind of file."""
    rng = np.random.default_rng(0)
    accepted = 0
    for kind in KINDS:
        content = encoded(random_image(0, (32, 32)), kind)
        for number in range(40):
            damaged = bytearray(content)
            damaged[rng.integers(len(damaged))] = rng.integers(256)
            path = write_files({f"0.{kind.lower()}": bytes(damaged)}, f"{kind}{number}")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    dataset = opened(path)
            except UserError:
                continue
            dataset.image(0)
            accepted += 1
    assert 0 < accepted < 280


def test_later_frames_are_said(random_image: Maker, write_files: Writer) -> None:
    frames = [random_image(i).quantize(64) for i in range(3)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    files = {"0.gif": encoded(frames[0], "GIF"), "1.gif": moving, "2.gif": moving}
    path = write_files(files)
    for _ in range(2):  # inspected, and from the index
        with pytest.warns(UserWarning, match=r"2 images have several frames, .* e\.g\. .*1\.gif"):
            dataset = opened(path)
    assert torch.equal(dataset.image(1), dataset.image(0))


def test_the_preview_of_a_camera_is_no_frame(random_image: Maker, write_files: Writer) -> None:
    photo = encoded(random_image(0), "MPO", save_all=True, append_images=[random_image(1, (8, 8))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(opened(write_files({"0.jpg": photo}))) == 1


@pytest.mark.skipif("avif" not in features.get_supported_codecs() and not features.check("avif"), reason="no AVIF")
def test_avif_where_pillow_reads_it(random_image: Maker, write_files: Writer) -> None:
    dataset = opened(write_files({"0.avif": encoded(random_image(0), "AVIF", quality=100)}))
    assert dataset.image(0).shape == (3, 16, 16)


def test_a_zip_entry_may_be_compressed(random_image: Maker, tmp_path: Path, own_cache: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.bmp", encoded(random_image(0), "BMP"))
    assert len(opened(tmp_path / "set.zip")) == 1
