"""What a tracker receives."""

import io
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from accelerate import tracking
from accelerate.utils import LoggerType
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smartfast.cli import main
from smartfast.config.parse import config_to_dict, load_config
from smartfast.core.run_log import read_rows
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.run.sheets import Sheets


@pytest.mark.usefixtures("not_finite")
def test_every_number_of_a_tick_and_every_sheet_reach_the_tracker(
    tmp_path: Path, tiny_options: Callable[..., list[str]]
) -> None:
    options = tiny_options(tmp_path, run__tracker="tensorboard", run__kimg=0.032)
    assert main(["train", *options]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["skipped_steps"] > 0
    tracked = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    assert names - set(tracked.Tags()["scalars"]) == set()
    for name in ("skipped_steps", "skipped/g_main", "skipped_in_a_row/g_main", "tick"):
        events = [(event.step, event.value) for event in tracked.Scalars(name)]
        assert events == [(row["kimg"] * 1000, row[name]) for row in rows], name
    steps = {name: [event.step for event in tracked.Images(name)] for name in tracked.Tags()["images"]}
    assert steps == {"reals": [0], "fakes": [0, 16, 32]}
    for event, file in zip(
        [*tracked.Images("reals"), *tracked.Images("fakes")],
        ("reals.png", "fakes_init.png", "fakes000000.016.png", "fakes000000.032.png"),
        strict=True,
    ):
        shown, written = (
            Image.open(of).convert("RGB") for of in (io.BytesIO(event.encoded_image_string), tmp_path / file)
        )
        assert shown.size == written.size and shown.tobytes() == written.tobytes(), file


class Wandb(ModuleType):
    """Stands in for the package: keeps what a run hands over, in order, and refuses a step that lies behind."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.projects: list[str] = []
        self.settings: dict[str, object] = {}
        self.logged: list[tuple[int, dict]] = []
        self.is_finished = False
        self.config, self.Image = self, np.asarray

    def init(self, project: str) -> "Wandb":
        self.projects.append(project)
        return self

    def update(self, values: dict, allow_val_change: bool) -> None:
        self.settings |= values

    def log(self, values: dict, step: int) -> None:
        assert not self.logged or step >= self.logged[-1][0], "wandb drops what lies behind"
        self.logged.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


def test_numbers_sheets_and_settings_reach_wandb(tmp_path: Path, tiny_options: Callable, monkeypatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(StyleGan2, "measure", lambda *_: {"heldout/0-9": 1.5})
    assert main(["train", *tiny_options(tmp_path, run__tracker="wandb", run__kimg=0.032)]) == 0
    assert wandb.projects == ["smartfast"] and wandb.is_finished
    plain = config_to_dict(load_config(tmp_path / "config.yaml"))
    names = {f"{group}.{name}" for group, settings in plain.items() for name in settings}
    assert wandb.settings.keys() == names and wandb.settings["optim.batch"] == 8
    handed: dict[int, dict] = {}
    for step, values in wandb.logged:
        handed.setdefault(step, {}).update(values)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert {row["kind"] for row in rows} == {"tick", "measured"}
    for row in rows:
        values = handed[round(row["kimg"] * 1000)]
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        numbers |= {} if row["kind"] == "tick" else {"kimg": values["kimg"]}
        assert numbers.items() <= values.items(), row["kind"]
    assert {step: sorted({"reals", "fakes"} & values.keys()) for step, values in handed.items()} == {
        0: ["fakes", "reals"],
        16: ["fakes"],
        32: ["fakes"],
    }


def test_settings_reach_tensorboard(tmp_path: Path, tiny_options: Callable[..., list[str]]) -> None:
    assert main(["train", *tiny_options(tmp_path, run__tracker="tensorboard", run__kimg=0.008)]) == 0
    (file,) = (tmp_path / "tensorboard").rglob("hparams.yml")
    settings = yaml.safe_load(file.read_text())
    assert settings["optim.batch"] == 8 and settings["gan.family"] == "stylegan2"
    assert settings.keys() >= {"smart.frequency", "metrics.samples", "perf.precision", "loss.r1_interval"}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_sheet_comes_as_the_tracker_takes_it(tracker: str, channels: int, tmp_path: Path) -> None:
    """wandb takes a list of pictures [H, W, 3]; TensorBoard is told which dimension is which."""

    class Tracker:
        name = tracker

        def log_images(self, values: dict, step: int, **form: str) -> None:
            found.append((values, step, form))

    found: list[tuple] = []
    images = torch.full((4, channels, 64, 64), 100, dtype=torch.uint8)
    images[:, 3:] = 0  # transparent
    Sheets(tmp_path, 2, [Tracker()]).show("fakes", images, step=7)
    ((values, step, form),) = found
    assert (step, form) == (7, {"dataformats": "NHWC"} if tracker == "tensorboard" else {})
    ((pixels,),) = [list(sheet) for sheet in values.values()]
    expected = np.full((128, 128, 3), 255 if channels == 4 else 100, np.uint8)
    np.testing.assert_array_equal(pixels, expected)
