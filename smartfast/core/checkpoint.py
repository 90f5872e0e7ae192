"""Checkpoints: safetensors and JSON, written atomically, verified when read. Reading never executes code.

A checkpoint is a folder `checkpoints/<kimg>` in the run folder:

    state.safetensors          everything training needs to go on exactly
    generator_ema.safetensors  the averaged generator, parameter names of stylegan2-ada-pytorch
    generator_ema.json         the arguments that build it
    checkpoint.json            images seen, versions, and size and SHA-256 of the files above

It is written under a temporary name and renamed when complete, so a process that dies while writing leaves
the older checkpoints as they were.
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.core.files import flush, sha256
from smartfast.errors import UserError

FOLDER = "checkpoints"
_INDEX, _STATE, _WEIGHTS, _OPTIONS = (
    "checkpoint.json",
    "state.safetensors",
    "generator_ema.safetensors",
    "generator_ema.json",
)
_PARTIAL = ".partial"


class Checkpoint(NamedTuple):
    """A verified checkpoint: its folder, what checkpoint.json says, and the training state by name."""

    path: Path
    info: dict[str, Any]
    state: dict[str, Tensor]


class CorruptCheckpoint(Exception):
    """A checkpoint that is incomplete or damaged; the message names the file and what is wrong."""


def save_checkpoint(
    run_dir: Path,
    *,
    images: int,
    state: dict[str, Tensor],
    generator: dict[str, Tensor],
    generator_options: dict[str, Any],
    info: dict[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint and delete all but the `keep` newest.

    Args:
        run_dir: Run folder.
        images: Real images seen.
        state: Training state by name.
        generator: State of the averaged generator by name.
        generator_options: Arguments that build it, JSON values.
        info: Further entries of checkpoint.json, JSON values.
        keep: Newest checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError, SafetensorError: Something cannot be written; the older checkpoints are as they were.
    """
    parent = run_dir / FOLDER
    final = parent / f"{images / 1000:010.3f}"
    partial = parent / f"{final.name}{_PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: value.detach().contiguous() for name, value in state.items()}, partial / _STATE)
    save_file({name: value.detach().contiguous() for name, value in generator.items()}, partial / _WEIGHTS)
    (partial / _OPTIONS).write_text(json.dumps(generator_options, indent=2) + "\n")
    files = {name: _fingerprint(partial / name) for name in (_STATE, _WEIGHTS, _OPTIONS)}
    index = {"images": images, "kimg": images / 1000, **info, "files": files}
    (partial / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    for file in partial.iterdir():
        flush(file)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    flush(parent)
    for old in _folders(run_dir)[keep:]:
        shutil.rmtree(old)
    return final


def load_newest(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that is complete and undamaged, or None. Names each one that it has to pass over."""
    for folder in _folders(run_dir):
        try:
            info = _verify(folder)
            return Checkpoint(folder, info, load_file(folder / _STATE))
        except (CorruptCheckpoint, SafetensorError) as error:
            warnings.warn(f"checkpoint {folder} is passed over for an older one: {error}", stacklevel=2)
    return None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a run folder or checkpoint folder means: `path` itself or its newest complete one.

    Raises:
        UserError: There is none.
    """
    if (path / _INDEX).is_file():
        return path
    for folder in _folders(path):
        try:
            _verify(folder)
            return folder
        except CorruptCheckpoint as error:
            warnings.warn(f"checkpoint {folder} is passed over for an older one: {error}", stacklevel=2)
    raise UserError(f"{path}: expected a run folder, a checkpoint folder or a generator .safetensors, found neither")


def find_weights(path: Path) -> Path:
    """The averaged network's weights of a run folder, a checkpoint folder, or `path` itself; raises as the above."""
    return path if path.is_file() else find_checkpoint(path) / _WEIGHTS


def _folders(run_dir: Path) -> list[Path]:
    parent = run_dir / FOLDER
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.is_dir() and p.suffix != _PARTIAL), reverse=True)


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _verify(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / _INDEX).read_text())
        expected = info["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptCheckpoint(f"{_INDEX} cannot be read ({error})") from error
    for name, fingerprint in expected.items():
        if not (folder / name).is_file():
            raise CorruptCheckpoint(f"{name} is missing")
        found = _fingerprint(folder / name)
        if found != fingerprint:
            raise CorruptCheckpoint(
                f"{name} is damaged: {found['bytes']} bytes, SHA-256 {found['sha256'][:12]}, "
                f"expected {fingerprint['bytes']} bytes, {fingerprint['sha256'][:12]}"
            )
    return info
