"""Checkpoints: atomic, verified, newest first, and free of code."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smartfast.core.checkpoint import find_checkpoint, has_checkpoint, load_newest, save_checkpoint, set_aside_newer
from smartfast.errors import UserError
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


def test_saving_again_at_one_place_replaces_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, 1000)
    damage_flip(save(tmp_path, 2000))
    save(tmp_path, 2000, keep=2)
    assert load_newest(tmp_path).info["images"] == 2000
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000001.000", "000002.000"]


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
        assert find_checkpoint(tmp_path).name == "000001.000"
    assert damaged.is_dir(), "who only looks changes nothing"
    with pytest.warns(UserWarning, match="000002.000 is passed over for an older one"):
        assert load_newest(tmp_path).info["images"] == 1000
    assert any(name in str(caught[0].message) for name in ("state", "generator_ema", "checkpoint.json"))


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_damaged_checkpoint_is_set_aside_once_and_stays(tmp_path: Path) -> None:
    """Twice at one kimg: training may pass the place where a checkpoint was damaged again."""
    save(tmp_path, 1000)
    for aside in ("000002.000.corrupt", "000002.000.corrupt.2"):
        damage_flip(save(tmp_path, 2000))
        before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints" / "000002.000").iterdir()}
        with pytest.warns(UserWarning, match="passed over .*: generator_ema.safetensors is damaged"):
            loaded = load_newest(tmp_path)
        assert loaded.info["images"] == 1000
        assert set_aside_newer(tmp_path, loaded) == [aside]
        kept = tmp_path / "checkpoints" / aside
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert set_aside_newer(tmp_path, load_newest(tmp_path)) == []
            assert find_checkpoint(tmp_path).name == "000001.000"
    for images in (3000, 4000, 5000):
        save(tmp_path, images, keep=1)
    assert names(tmp_path) == ["000002.000.corrupt", "000002.000.corrupt.2", "000005.000"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path: Path) -> None:
    for folder in [save(tmp_path, images) for images in (1000, 2000)]:
        damage_truncate(folder)
    assert not has_checkpoint(tmp_path)
    for look in (load_newest, find_checkpoint):
        with pytest.raises(UserError, match=r"none of its 2 checkpoints is intact.*000002\.000: state.*damaged[^\n]*$"):
            look(tmp_path)
    assert names(tmp_path) == ["000001.000", "000002.000"]


WRONG_IMAGES = [2**62, 10**400, -1, 1000, 2000.0, "2000", True, None, [2000], "absent"]


@pytest.mark.parametrize("images", WRONG_IMAGES, ids=lambda value: str(value)[:9])
def test_a_number_of_images_that_is_not_that_of_its_name_is_damage(images: object, tmp_path: Path) -> None:
    save(tmp_path, 1000)
    index = save(tmp_path, 2000) / "checkpoint.json"
    info = json.loads(index.read_text()) | {"images": images}
    if images == "absent":
        del info["images"]
    index.write_text(json.dumps(info))
    with pytest.warns(UserWarning, match="000002.000 is passed over .*checkpoint.json says .* images"):
        assert load_newest(tmp_path).info["images"] == 1000


def test_what_stands_in_place_of_the_checkpoints_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("mine")
    for look in (load_newest, find_checkpoint, has_checkpoint):
        with pytest.raises(UserError, match=r"/checkpoints: expected a folder, found a file$"):
            look(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected a run folder, a checkpoint folder or a generator .safetensors, found neither"),
        (["config.yaml"], "has no checkpoint yet, expected one"),
        (["config.yaml", "metrics.jsonl", "checkpoints/000001.000.partial/x"], "has no checkpoint yet, expected one"),
    ],
)
def test_a_run_without_a_checkpoint_yet(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"^{tmp_path}.*{message}"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["save_file", "flush", "sha256"])
def test_a_save_that_fails_leaves_nothing_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1000)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(f"smartfast.core.checkpoint.{name}", fail)
        save(tmp_path, 2000)
    assert names(tmp_path) == ["000001.000"] and load_newest(tmp_path).info["images"] == 1000


@pytest.mark.parametrize("damage", [damage_truncate, damage_remove, damage_index])
def test_pruning_counts_intact_checkpoints_only(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Two of the newest are damaged; whoever counts folders would delete the two good ones."""
    for folder in [save(tmp_path, images, keep=10) for images in (1000, 2000, 3000, 4000)][2:]:
        damage(folder)
    with pytest.warns(UserWarning, match="00000[34].000 is set aside") as caught:
        save(tmp_path, 5000, keep=3)
    assert len(caught) == 2
    assert names(tmp_path) == ["000001.000", "000002.000", "000003.000.corrupt", "000004.000.corrupt", "000005.000"]


@pytest.mark.filterwarnings("ignore:checkpoint .* is set aside")
@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove, damage_index])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_after_damaged_newer_ones_keeps_what_it_wrote(tmp_path: Path, keep: int, damage) -> None:
    save(tmp_path, 1000)
    for images in (3000, 4000):
        damage(save(tmp_path, images))
    with pytest.warns(UserWarning, match="passed over"):
        assert load_newest(tmp_path).info["images"] == 1000
        assert save(tmp_path, 2000, keep=keep).is_dir()
        assert load_newest(tmp_path).info["images"] == 2000


def test_what_was_written_stays_whatever_stands_above_it(tmp_path: Path) -> None:
    """Bytes flipped after the run had started: the sizes are right, and only reading all of it would tell."""
    damage_flip(save(tmp_path, 4000))
    written = save(tmp_path, 2000, keep=1)
    with pytest.warns(UserWarning, match="000004.000 is passed over"):
        assert load_newest(tmp_path).path == written


def test_folders_that_are_not_checkpoints_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    foreign = ("best", "zzz", "000009", "9.000", "000009.000.bak", "000009.000 (copy)", "000009.0000")
    for name in foreign:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "000009.000").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (1000, 2000):
            save(tmp_path, images, keep=1)
        assert load_newest(tmp_path).info["images"] == 2000
    assert names(tmp_path) == sorted([*foreign, "000002.000", "000009.000"])


def test_a_deletion_that_is_cut_short_leaves_no_half_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1000)

    def die_halfway(folder: Path, **_: object) -> None:
        if folder.is_dir():
            (folder / "state.safetensors").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", die_halfway)
        save(tmp_path, 2000, keep=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_newest(tmp_path).info["images"] == 2000
        save(tmp_path, 3000, keep=1)
    assert names(tmp_path) == ["000003.000"]


def test_newest_is_the_largest_number_not_the_last_name(tmp_path: Path) -> None:
    for images in (999_999_000, 1_000_000_000):
        save(tmp_path, images, keep=1)
    assert names(tmp_path) == ["1000000.000"]


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was flushed: files, then their folder, then, renamed, the folder above."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        events.append(("flush", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append(("rename", os.path.basename(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    save(tmp_path, 1000)
    files = ["checkpoint.json", "generator_ema.json", "generator_ema.safetensors", "state.safetensors"]
    assert sorted(events[:4]) == [("flush", name) for name in files]
    assert events[4:] == [
        ("flush", "000001.000.partial"),
        ("rename", "000001.000.partial"),
        ("flush", "checkpoints"),
        ("flush", tmp_path.name),
    ]


def test_a_partly_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1000)
    partial = tmp_path / "checkpoints" / "000002.000.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    assert load_newest(tmp_path).info["images"] == 1000
    save(tmp_path, 3000)
    assert load_newest(tmp_path).info["images"] == 3000 and not partial.exists()
