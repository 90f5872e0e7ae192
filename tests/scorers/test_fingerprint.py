"""A scorer's fingerprint is that of its weights and settings, wherever they lie."""

import shutil
from pathlib import Path

import pytest

from smartfast.scorers import load_scorer
from smartfast.scorers.fingerprint import fingerprint_of
from smartfast.scorers.loading import BUNDLED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED["digits"], tmp_path / "scorer"))


def test_a_copy_has_the_same_and_the_readme_beside_it_does_not_count(folder: Path) -> None:
    expected = load_scorer("digits").fingerprint
    assert fingerprint_of(folder) == expected
    (folder / "README.md").write_text("about it")
    assert fingerprint_of(folder.rename(folder.parent / "elsewhere")) == expected


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("change", ["first byte", "last byte", "longer", "renamed"])
def test_what_says_something_else_has_another(name: str, change: str, folder: Path) -> None:
    before, file = fingerprint_of(folder), folder / name
    content = bytearray(file.read_bytes())
    if change == "renamed":
        file.rename(file.with_stem("other"))
    elif change == "longer":
        file.write_bytes(content + b" ")
    else:
        content[0 if change == "first byte" else -1] ^= 1
        file.write_bytes(content)
    assert fingerprint_of(folder) != before


@pytest.mark.parametrize("size_bytes", [0, 1, 4095, 4096, 4097, 256 * 4096 - 1, 5_000_001])
def test_a_file_of_any_size(size_bytes: int, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pkl", tmp_path / "other.pkl"
    content = bytes(range(251)) * (size_bytes // 251 + 1)
    one.write_bytes(content[:size_bytes])
    other.write_bytes(content[:size_bytes])
    assert fingerprint_of(one) == fingerprint_of(other)
    other.write_bytes(content[: size_bytes + 1])
    assert fingerprint_of(one) != fingerprint_of(other)


def test_every_weight_moved_is_seen_in_a_file_that_is_read_in_parts(tmp_path: Path) -> None:
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    one.write_bytes(bytes(3_000_000))
    other.write_bytes(b"\1" * 3_000_000)
    assert fingerprint_of(one) != fingerprint_of(other)


def test_one_without_files_has_its_name() -> None:
    assert load_scorer("plane:ring").fingerprint == "plane:ring"
