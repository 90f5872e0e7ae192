"""What a tracker receives."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smartfast.cli import main
from smartfast.core.run_log import read_rows
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
