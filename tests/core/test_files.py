"""Files are complete or as they were."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from smartfast.core.files import appear_complete, sha256, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_files_of_a_killed_process_are_not_taken_for_those_of_the_next(tmp_path: Path) -> None:
    left = tmp_path / "folder.partial"
    left.mkdir()
    (left / "half").write_bytes(b"ha")
    with appear_complete(tmp_path / "folder") as partial:
        (partial / "whole").write_bytes(b"whole")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["whole"] and not left.exists()


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "file", b"content")
    assert sha256(tmp_path / "deep" / "file") == hashlib.sha256(b"content").hexdigest()


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        status = os.fstat(descriptor)
        events.append("flush folder" if stat.S_ISDIR(status.st_mode) else f"flush {status.st_size}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(tmp_path / "file", b"content")
    assert events == ["flush 7", "rename", "flush folder"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
