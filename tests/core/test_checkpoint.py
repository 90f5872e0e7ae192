"""Checkpoints: atomic, verified, newest first, and free of code."""

from pathlib import Path

import pytest
import torch

from smartfast.core.checkpoint import find_checkpoint, load_newest, save_checkpoint
from smartfast.networks.stylegan2 import Generator

OPTIONS = dict(z_dim=4, c_dim=0, w_dim=4, resolution=8, channels=1, mapping_layers=1, channel_base=32, channel_max=4)


def save(run_dir: Path, images: int, *, keep: int = 3) -> Path:
    state = {"a": torch.full((3,), float(images)), "transposed": torch.randn(2, 3).t(), "scalar": torch.tensor(2.0)}
    return save_checkpoint(
        run_dir,
        images=images,
        state=state,
        generator=Generator(**OPTIONS).state_dict(),
        generator_options=OPTIONS,
        info={"time_sec": 1.5},
        keep=keep,
    )


def test_round_trip_and_keep_last(tmp_path: Path) -> None:
    for images in (500, 1000, 10_000_000, 99_500):
        save(tmp_path, images, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000099.500", "010000.000"]
    newest = load_newest(tmp_path)
    assert newest.info["images"] == 10_000_000 and newest.info["time_sec"] == 1.5
    assert newest.state["a"].tolist() == [1e7] * 3 and newest.state["transposed"].shape == (3, 2)


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None


def damage_truncate(folder: Path) -> None:
    data = (folder / "state.safetensors").read_bytes()
    (folder / "state.safetensors").write_bytes(data[:-5])


def damage_flip(folder: Path) -> None:
    data = bytearray((folder / "generator_ema.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "generator_ema.safetensors").write_bytes(data)


def damage_remove(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


def damage_index(folder: Path) -> None:
    (folder / "checkpoint.json").write_text('{"images": 2')


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove, damage_index])
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, damage) -> None:
    save(tmp_path, 1000)
    damaged = save(tmp_path, 2000)
    damage(damaged)
    with pytest.warns(UserWarning, match="000002.000 is passed over for an older one") as caught:
        assert load_newest(tmp_path).info["images"] == 1000
    assert any(name in str(caught[0].message) for name in ("state", "generator_ema", "checkpoint.json"))
    with pytest.warns(UserWarning):
        assert find_checkpoint(tmp_path).name == "000001.000"


def test_a_partly_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1000)
    partial = tmp_path / "checkpoints" / "000002.000.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    assert load_newest(tmp_path).info["images"] == 1000
    save(tmp_path, 2000)
    assert load_newest(tmp_path).info["images"] == 2000 and not partial.exists()
