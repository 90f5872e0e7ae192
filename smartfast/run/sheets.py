"""The sheets of a run: PNGs in its folder and, where it has a tracker, images there."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from accelerate.tracking import GeneralTracker
from torch import Tensor

from smartfast.config.schema import RunConfig
from smartfast.core.grids import save_grid, to_pillow
from smartfast.metrics.extractors import without_alpha
from smartfast.run.snapshots import copy_to_host

_LEAST_PIXELS = 64
_FORM = {"tensorboard": {"dataformats": "NHWC"}}  # the other trackers take pictures for what they are


def sheet_name(kimg: float, run: RunConfig, *, is_asked: bool = False) -> str:
    """The file of a sheet of samples: thousands of images, in full where they are nearer than one thousand.

    is_asked: It belongs to no snapshot, so that it may be near to one.
    """
    is_near = is_asked or run.tick_kimg * run.snapshot_ticks < 1
    return f"fakes{kimg:010.3f}.png" if is_near else f"fakes{round(kimg):06d}.png"


class Sheets:
    """Of the main process.

    Args:
        run_dir: Run folder.
        columns: Images per row.
        trackers: Accelerate's, of this run.
    """

    def __init__(self, run_dir: Path, columns: int, trackers: Sequence[GeneralTracker]) -> None:
        self.run_dir, self.columns, self.trackers = run_dir, columns, trackers

    def show(self, name: str, images: Tensor, *, step: int) -> None:
        """Hand a sheet to the trackers, in step with their other values; images uint8 [N, C, H, W], alpha on white."""
        if not self.trackers:
            return
        picture = to_pillow(without_alpha(images), self.columns, min_pixels=_LEAST_PIXELS).convert("RGB")
        for tracker in self.trackers:
            tracker.log_images({name: np.asarray(picture)[None]}, step=step, **_FORM.get(tracker.name, {}))

    def writing(self, file: str, images: Tensor) -> Callable[[], None]:
        """What any thread may call, once, to write `file`, a sheet of images uint8 [N, C, H, W] as they are now."""
        copied = copy_to_host({"images": images})
        return lambda: save_grid(copied()["images"], self.run_dir / file, self.columns, min_pixels=_LEAST_PIXELS)
