"""Files are for whom the umask says, those of safetensors too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from smartfast.core.checkpoint import save_checkpoint
from smartfast.core.grids import save_grid


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
def test_checkpoints_and_sheets(tmp_path: Path, mask: int, mode: int) -> None:
    tensors = {"a": torch.zeros(2)}
    with umask(mask):
        save_checkpoint(tmp_path, images=8, state=tensors, generator=tensors, generator_options={}, info={}, keep=1)
        save_grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), tmp_path / "sheet.png", columns=1)
    found = modes(tmp_path)
    assert len(found) == 5 and set(found.values()) == {mode}
