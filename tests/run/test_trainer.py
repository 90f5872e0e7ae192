"""What the loop does between iterations: one read per tick, time of compiling, snapshots beside training."""

import json
import resource
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest, save_checkpoint
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.run import trainer as trainer_module
from smartfast.run.launch import launch
from smartfast.run.trainer import Trainer
from smartfast.run.training import Training
from smartfast.scorers import load_scorer, timestep_range

OPTIONS = {
    "data.resolution": 16,
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.mbstd_group": 4,
    "loss.path_length_interval": 4,
    "optim.batch": 8,
    "smart.frequency": 2,
    "smart.self_check": "false",
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": 0.016,
    "run.snapshot_ticks": 1,
    "run.keep_checkpoints": 100,
    "run.kimg": 0.064,
    "perf.cpu_threads": 1,
}


def options(run_dir: Path, **changes: object) -> list[str]:
    settings = OPTIONS | {"run.dir": run_dir} | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """One that has begun a tick, two iterations ago."""
    config = parse_config(options(tmp_path))
    dataset, scorer, device = open_dataset(config.data), load_scorer("digits"), torch.device("cpu")
    training = Training(config, dataset, scorer=scorer, timesteps=timestep_range(scorer, config.smart), device=device)
    trainer = Trainer(training, dataset, Accelerator(cpu=True), checkpoint=None)
    trainer._start_tick(maintenance_since_sec=trainer.start_sec)
    for _ in range(2):
        training.run_iteration(RealBatch(torch.randn(8, 1, 16, 16), torch.arange(8)))
    return trainer


def test_a_tick_reads_the_device_once(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *arguments, original=original, name=name):
            reads.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counted)
    guard = trainer.training.phases["d_main"].guard
    guard.total.fill_(5)
    guard.consecutive.fill_(2)
    row = trainer._tick_row()
    assert reads == ["tolist"]
    assert {name: value for name, value in row.items() if name.startswith("skipped") and value} == {
        "skipped_steps": 5,
        "skipped/d_main": 5,
        "skipped_in_a_row/d_main": 2,
    }
    assert "loss/d_main" in row


def test_compiling_is_maintenance(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=trainer.tick_start_sec + 5.0)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(trainer.training, "take_compile_sec", lambda: 3.0)
    trainer.maintenance_sec = 0.5
    row = trainer._tick_row()
    assert row["compile_sec"] == 3.0 and row["maintenance_sec"] == pytest.approx(3.5)
    assert row["sec_per_tick"] == pytest.approx(2.0) and row["images_per_sec"] == pytest.approx(8.0)
    assert row["sec_per_kimg"] == pytest.approx(2.0 / 0.016)


def states(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    files = sorted((run_dir / "checkpoints").glob("*/*.safetensors"))
    return {str(file.relative_to(run_dir)): load_file(file) for file in files}


def test_training_changes_nothing_in_a_snapshot_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each checkpoint is written two iterations after its moment; it must hold that moment."""
    launch(parse_config(options(tmp_path / "prompt")))
    reached: list[int] = []
    late: list[int] = []

    def run_iteration(self: Training, reals: RealBatch, original=Training.run_iteration) -> None:
        original(self, reals)
        reached.append(self.images)

    def save_late(run_dir: Path, *, images: int, **arguments) -> Path:
        while images < 64 and reached[-1] < images + 16:  # the run's last images
            time.sleep(0.001)
        late.append(reached[-1] - images)
        return save_checkpoint(run_dir, images=images, **arguments)

    monkeypatch.setattr(Training, "run_iteration", run_iteration)
    monkeypatch.setattr(trainer_module, "save_checkpoint", save_late)
    launch(parse_config(options(tmp_path / "late")))
    assert late == [16, 16, 16, 0]
    expected, found = states(tmp_path / "prompt"), states(tmp_path / "late")
    assert len(found) == 8 and found.keys() == expected.keys()
    for file, tensors in found.items():
        assert [name for name, value in tensors.items() if not torch.equal(value, expected[file][name])] == [], file
    for png in (tmp_path / "prompt").glob("*.png"):
        assert png.read_bytes() == (tmp_path / "late" / png.name).read_bytes()


def test_averaged_generator_of_a_checkpoint_is_that_of_its_state(tmp_path: Path) -> None:
    launch(parse_config(options(tmp_path, run__kimg=0.016)))
    checkpoint = load_newest(tmp_path)
    weights = load_file(checkpoint.path / "generator_ema.safetensors")
    assert torch.equal(weights["synthesis.b16.conv1.weight"], checkpoint.state["ema/synthesis.b16.conv1.weight"])
    assert torch.equal(weights["mapping.w_avg"], checkpoint.state["g/module/mapping.w_avg"])
    assert json.loads((checkpoint.path / "checkpoint.json").read_text())["images"] == 16


def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A limit on the size of files, which state.safetensors exceeds, stands for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert main(["train", *options(tmp_path, run__kimg=1.0)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"smartfast: error: run.dir {tmp_path}: the snapshot at 0.016 kimg could not be written (")
    assert "File too large" in line
    assert load_newest(tmp_path) is None
    rows = [row["kimg"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert rows and rows[-1] <= 0.032, "training went on although nothing could be saved"


def test_a_signal_saves_the_state_and_draws_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may take longer than whoever sent the signal waits."""

    def run_iteration(self: Training, reals: RealBatch, original=Training.run_iteration) -> None:
        original(self, reals)
        if self.images == 24:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Training, "run_iteration", run_iteration)
    assert not launch(parse_config(options(tmp_path, run__snapshot_ticks=100)))
    assert load_newest(tmp_path).info["images"] == 24
    assert [path.name for path in tmp_path.glob("fakes*.png")] == ["fakes_init.png"]
