"""The best checkpoint of a run: one, complete, and none of those that a run resumes from."""

import json
import os
from pathlib import Path

import pytest
import torch

from smartfast.core import best as best_module
from smartfast.core.best import best_of, keep_best, named
from smartfast.core.checkpoint import find_checkpoint, find_weights, load_newest, load_tensors, save_checkpoint
from smartfast.errors import UserError


def save(run_dir: Path, images: int) -> Path:
    run_dir.mkdir(exist_ok=True)
    tensors = {"value": torch.full((3,), float(images))}
    options = dict(state=tensors, generator=tensors, generator_options={}, info={}, keep=1)
    return save_checkpoint(run_dir, images=images, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("has_links", [True, False])
def test_it_outlives_its_checkpoint_and_gives_way_to_a_better_one(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*arguments: object) -> None:
        raise OSError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    run = tmp_path / "run"
    assert best_of(run) is None
    keep_best(run, save(run, 8000), metric="fid", value=3.0, kimg=8.0)
    save(run, 16000)
    assert names(run / "checkpoints") == ["000016.000"] and names(run / "best") == ["000008.000"]
    folder, tensors = load_tensors(tmp_path / "run@best", lambda name: True)
    assert folder == run / "best" / "000008.000" and tensors["value"].tolist() == [8000.0] * 3
    assert load_newest(run).info["images"] == 16000
    keep_best(run, find_checkpoint(run), metric="fid", value=2.0, kimg=16.0)
    assert names(run / "best") == ["000016.000"] and best_of(run)[1:] == ("fid", 2.0, 16.0)


def test_what_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    keep_best(run, save(run, 8000), metric="fid", value=3.0, kimg=8.0)
    folder = run / "best" / "000008.000"
    for path in (tmp_path / "run@best", run / "@best", folder):
        assert find_checkpoint(path) == folder and find_weights(path) == folder / "generator_ema.safetensors"
    monkeypatch.chdir(run)
    assert find_checkpoint(Path("@best")).resolve() == folder
    assert named(run) == run
    (tmp_path / "run@best").mkdir()
    assert named(tmp_path / "run@best") == tmp_path / "run@best", "a folder of that name comes first"


def test_a_run_without_one_is_said(tmp_path: Path) -> None:
    save(tmp_path / "run", 8000)
    with pytest.raises(UserError, match=r"run: no best checkpoint is kept here.+run\.keep_best"):
        find_checkpoint(tmp_path / "run@best")


def test_dying_between_two_leaves_the_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_best(tmp_path, save(tmp_path, 24000), metric="fid", value=3.0, kimg=24.0)
    older = tmp_path / "best" / "000024.000" / "best.json"
    os.utime(older, ns=(1, 1))

    class Killed(BaseException):
        pass

    def die(path: Path) -> None:
        if path == tmp_path / "best":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(best_module, "flush", die)
        keep_best(tmp_path, save(tmp_path, 8000), metric="kid", value=2.0, kimg=8.0)
    assert names(tmp_path / "best") == ["000008.000", "000024.000"] and best_of(tmp_path).metric == "kid"


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_best(tmp_path, save(tmp_path, 8000), metric="fid", value=3.0, kimg=8.0)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(best_module.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        keep_best(tmp_path, save(tmp_path, 16000), metric="fid", value=2.0, kimg=16.0)
    assert names(tmp_path / "best") == ["000008.000"]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"metric": "fid"}', '{"metric": "fid", "value": "x", "kimg": 1}'])
def test_a_damaged_record_is_none(record: str, tmp_path: Path) -> None:
    folder = keep_best(tmp_path, save(tmp_path, 8000), metric="fid", value=3.0, kimg=8.0)
    (folder / "best.json").unlink()
    (folder / "best.json").write_text(record)
    assert best_of(tmp_path) is None
    keep_best(tmp_path, find_checkpoint(tmp_path), metric="fid", value=3.5, kimg=8.0)
    assert json.loads((folder / "best.json").read_text())["value"] == 3.5
