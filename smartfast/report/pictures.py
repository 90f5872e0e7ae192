"""Pictures inside a page, as data URIs."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

_LARGEST_SIDE = 1280  # pixels of an embedded sheet; larger ones are reduced
_LARGEST_PNG_BYTES = 400_000  # larger pictures without transparency become JPEG


def embedded(path: Path) -> dict[str, str]:
    """`src` of a PNG file inside a page, reduced or compressed where it is large; `fault` where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return {"src": _encoded(picture)}
    except (OSError, SyntaxError, ValueError):  # as Pillow says it of a PNG
        return {"fault": f"{path.name} cannot be read."}


def data_uri(content: bytes, media_type: str) -> str:
    """What an image element takes as its source."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Image.Image) -> str:
    if max(picture.size) > _LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    png = _bytes(picture, "PNG", optimize=True)
    if len(png) <= _LARGEST_PNG_BYTES or picture.mode == "RGBA":
        return data_uri(png, "image/png")
    return data_uri(_bytes(picture, "JPEG", quality=90), "image/jpeg")


def _bytes(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()
