"""Files are complete or as they were."""

import hashlib
from pathlib import Path

import pytest

from smartfast.core.files import sha256, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "file", b"content")
    assert sha256(tmp_path / "deep" / "file") == hashlib.sha256(b"content").hexdigest()
