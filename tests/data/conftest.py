"""Small image sets on disk."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SHAPES = {"L": (), "RGB": (3,), "RGBA": (4,)}


@pytest.fixture
def random_image() -> Callable[..., Image.Image]:
    """random_image(seed, size=(16, 16), mode="RGB"): noise, so that any mix-up of images or channels shows."""

    def make(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
        width, height = size
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *SHAPES[mode]), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """write_files(files, name="set"): a folder of images, bytes or JSON objects; a .zip if the name says so."""

    def write(files: Mapping[str, Any], name: str = "set") -> Path:
        folder = tmp_path / name.removesuffix(".zip")
        for relative, content in files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(path)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(json.dumps(content))
        if not name.endswith(".zip"):
            return folder
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for relative in files:
                archive.write(folder / relative, relative)
        return tmp_path / name

    return write
