"""Checkpoints: safetensors and JSON, written atomically, verified when read. Reading never executes code.

A checkpoint is a folder `checkpoints/<kimg>` in the run folder:

    state.safetensors          everything training needs to go on exactly
    generator_ema.safetensors  the averaged generator, parameter names of stylegan2-ada-pytorch
    generator_ema.json         the arguments that build it
    checkpoint.json            images seen, versions, and size and SHA-256 of the files above

It is written under a temporary name and renamed when complete, so a process that dies while writing leaves
the older checkpoints as they were. One that turns out to be damaged is set aside as `<kimg>.corrupt`, which nothing
here reads or deletes; so is any other name in `checkpoints/` that is not a number of kimg.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.core.best import named
from smartfast.core.files import flush, set_aside, sha256
from smartfast.errors import UserError

FOLDER = "checkpoints"
CONVERSION = "conversion.json"
"""In a folder that `smartfast convert` made of another project's file, beside weights named as in a checkpoint."""
_INDEX, _STATE, _WEIGHTS, _OPTIONS = (
    "checkpoint.json",
    "state.safetensors",
    "generator_ema.safetensors",
    "generator_ema.json",
)
_RUN_FILES = ("config.yaml", "metrics.jsonl", "reals.png")
_PARTIAL, _OLD, _CORRUPT = ".partial", ".old", ".corrupt"
_MAX_IMAGES = 2**53
_NAME = re.compile(r"\d{6,}\.\d{3}")


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
    """Write a checkpoint, then delete what is older than the `keep` newest intact ones and set damaged ones aside.

    Args:
        run_dir: Run folder, which is there: one that vanishes under its run is not made again.
        images: Real images seen.
        state: Training state by name.
        generator: State of the averaged generator by name.
        generator_options: Arguments that build it, JSON values.
        info: Further entries of checkpoint.json, JSON values.
        keep: Newest intact checkpoints to keep, at least 1; the one written here stays in any case.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError, SafetensorError: Something cannot be written; the older checkpoints are as they were.
    """
    parent = run_dir / FOLDER
    final = parent / _name(images)
    partial = parent / f"{final.name}{_PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        parent.mkdir(exist_ok=True)
        partial.mkdir()
        save_file({name: value.detach().contiguous() for name, value in state.items()}, partial / _STATE)
        write_weights(partial, generator, generator_options)
        files = {name: _fingerprint(partial / name) for name in (_STATE, _WEIGHTS, _OPTIONS)}
        index = {"images": images, "kimg": images / 1000, **info, "files": files}
        (partial / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
        mode = (partial / _INDEX).stat().st_mode  # the umask's; safetensors makes files for their owner alone
        for file in partial.iterdir():
            file.chmod(mode)
            flush(file)
        flush(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise
    if os.path.lexists(final):  # not deleted before its successor is in place
        _mark_old(final)
    os.replace(partial, final)
    flush(parent)
    flush(run_dir)  # which may have gained `checkpoints`
    _prune(run_dir, written=final, keep=keep)
    return final


def write_weights(folder: Path, generator: dict[str, Tensor], options: dict[str, Any]) -> None:
    """Write the averaged generator's weights as in a checkpoint, into a folder that is made where it is missing."""
    folder.mkdir(exist_ok=True)
    save_file({name: value.detach().contiguous() for name, value in generator.items()}, folder / _WEIGHTS)
    (folder / _OPTIONS).write_text(json.dumps(options, indent=2) + "\n")


def checkpoint_folder(run_dir: Path, images: int) -> Path:
    """Where a run has its checkpoint after `images` images, if it has one."""
    return run_dir / FOLDER / _name(images)


def _name(images: int) -> str:
    return f"{images / 1000:010.3f}"


def _prune(run_dir: Path, *, written: Path, keep: int) -> None:
    intact = []
    for folder in _folders(run_dir):
        try:
            _check_sizes(folder)
            intact.append(folder)
        except CorruptCheckpoint as error:
            warnings.warn(
                f"checkpoint {folder} is set aside as {set_aside(folder, _CORRUPT).name}: {error}", stacklevel=3
            )
    for folder in intact[keep:]:
        # Right sizes are no proof: what was just written stays, even if all of the `keep` above it are unreadable.
        if folder != written:
            _mark_old(folder)
    for rest in written.parent.iterdir():
        if rest.suffix in (_PARTIAL, _OLD) and _NAME.fullmatch(rest.stem):
            shutil.rmtree(rest, ignore_errors=True)  # what stays is tried again after the next save


def _mark_old(folder: Path) -> None:
    """Rename a checkpoint that is to be deleted: a process that dies while deleting leaves no half a checkpoint."""
    marked = folder.with_name(f"{folder.name}{_OLD}")
    shutil.rmtree(marked, ignore_errors=True)
    os.replace(folder, marked)


def load_newest(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that is complete and undamaged, None where there is none at all. Names each it passes over.

    Raises:
        UserError: There are checkpoints, and all of them are damaged.
    """
    folder = _newest_intact(run_dir)
    if folder is None:
        return None
    return Checkpoint(folder, json.loads((folder / _INDEX).read_text()), load_file(folder / _STATE))


def load_tensors(path: Path, wanted: Callable[[str], bool]) -> tuple[Path, dict[str, Tensor]]:
    """The checkpoint that a run folder or checkpoint folder means, and those tensors of its state that are `wanted`.

    Raises:
        UserError: As `find_checkpoint`, or the checkpoint that `path` itself is is damaged.
    """
    folder = find_checkpoint(path)
    try:
        if folder == named(path):  # the newest one of a run has been verified
            _verify(folder)
        with safe_open(folder / _STATE, "pt") as file:
            return folder, {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
    except (CorruptCheckpoint, SafetensorError, OSError) as error:
        raise UserError(f"{folder}: {error}, expected an intact checkpoint") from error


def _newest_intact(run_dir: Path) -> Path | None:
    folders = _folders(run_dir)
    faults: list[str] = []
    for folder in folders:
        try:
            _verify(folder)
            with safe_open(folder / _STATE, "pt"):  # what was written whole may still have been another file
                return folder
        except (CorruptCheckpoint, SafetensorError, OSError) as error:
            faults.append(f"{folder.name}: {error}")
            if len(faults) < len(folders):
                warnings.warn(f"checkpoint {folder} is passed over for an older one: {error}", stacklevel=3)
    if faults:
        raise UserError(
            f"{run_dir}: none of its {len(faults)} checkpoints is intact ({faults[0]}), expected one; "
            f"choose another run.dir, or take {FOLDER} away to begin anew"
        )
    return None


def set_aside_newer(run_dir: Path, loaded: Checkpoint | None) -> list[str]:
    """Rename the checkpoints that `load_newest` passed over, for the one process that owns the run folder.

    Args:
        run_dir: Run folder.
        loaded: What `load_newest` returned.

    Returns:
        Their new names.
    """
    folders = _folders(run_dir)
    passed_over = folders if loaded is None else folders[: folders.index(loaded.path)]
    return [set_aside(folder, _CORRUPT).name for folder in passed_over]


def has_checkpoint(run_dir: Path) -> bool:
    """Whether there is a checkpoint that has all its bytes; reads no tensor."""
    for folder in _folders(run_dir):
        try:
            _check_sizes(folder)
            return True
        except CorruptCheckpoint:
            continue
    return False


def newest_info(run_dir: Path) -> dict[str, Any]:
    """What checkpoint.json of the newest checkpoint that has all its bytes says, empty without one; reads no tensor."""
    for folder in _folders(run_dir):
        try:
            return _check_sizes(folder)
        except CorruptCheckpoint:
            continue
    return {}


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a path means: a checkpoint itself, a run's newest complete one, `RUN@best`.

    Raises:
        UserError: There is none.
    """
    path = named(path)
    if (path / _INDEX).is_file():
        return path
    folder = _newest_intact(path)
    if folder is not None:
        return folder
    if any((path / name).exists() for name in _RUN_FILES):
        raise UserError(
            f"{path}: this run has no checkpoint yet, expected one; it saves every run.snapshot_ticks ticks"
        )
    raise UserError(f"{path}: expected a run folder, a checkpoint folder or a generator .safetensors, found neither")


def find_weights(path: Path) -> Path:
    """The averaged network's weights of a run folder, a checkpoint folder, a converted folder, or `path` itself.

    Raises as the above, which says what may be named.
    """
    path = named(path)
    if path.is_file():
        return path
    is_converted = (path / CONVERSION).is_file() and (path / _WEIGHTS).is_file()
    return (path if is_converted else find_checkpoint(path)) / _WEIGHTS


def _folders(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first, whatever state they are in."""
    parent = run_dir / FOLDER
    if not parent.is_dir():
        if os.path.lexists(parent):
            raise UserError(f"{parent}: expected a folder, found a file")
        return []
    folders = [path for path in parent.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda folder: float(folder.name), reverse=True)


def _check_sizes(folder: Path) -> dict[str, Any]:
    """What checkpoint.json says; raises CorruptCheckpoint where it or a file is missing or has another size."""
    try:
        info = json.loads((folder / _INDEX).read_text())
        sizes = {name: fingerprint["bytes"] for name, fingerprint in info["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{_INDEX} cannot be read ({error})") from error
    images = info.get("images")
    if type(images) is not int or not 0 <= images < _MAX_IMAGES or _name(images) != folder.name:
        raise CorruptCheckpoint(f"{_INDEX} says {str(images)[:20]} images, expected those of the folder's name")
    if _STATE not in sizes:
        raise CorruptCheckpoint(f"{_INDEX} does not name {_STATE}")
    for name, size in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise CorruptCheckpoint(f"{name} is missing") from error
        if found != size:
            raise CorruptCheckpoint(f"{name} is damaged: {found} bytes, expected {size}")
    return info


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _verify(folder: Path) -> dict[str, Any]:
    """What checkpoint.json says; raises CorruptCheckpoint where a file is not what was written, byte for byte."""
    info = _check_sizes(folder)
    for name, fingerprint in info["files"].items():
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise CorruptCheckpoint(f"{name} cannot be read ({error})") from error
        if found != fingerprint.get("sha256"):
            raise CorruptCheckpoint(
                f"{name} is damaged: SHA-256 {found[:12]}, expected {str(fingerprint.get('sha256'))[:12]}"
            )
    return info
