"""optim.batch_gpu auto: the most images at a time for which the memory that is free suffices by the forecast."""

import math
from dataclasses import replace

from smartfast.config.schema import Config
from smartfast.core.text import format_bytes
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.run.memory import peaks
from smartfast.scorers import Scorer, TimestepRange

_ROOM = 0.8
"""Share of free memory that the forecast may take: workspaces of operations and the metrics' network come on top."""


def fitting_images(
    config: Config,
    dataset: ImageDataset,
    scorer: Scorer | None,
    timesteps: TimestepRange | None,
    *,
    local: int,
    free_bytes: float,
) -> int:
    """The largest number of images at a time that the family takes, that divides a process's share and that fits.

    Args:
        config: Of the run.
        dataset: Its images, of which shape and classes matter.
        scorer, timesteps: Of its score term, None = without; the scorer is in memory already.
        local: Images per process and iteration.
        free_bytes: For this process.

    Raises:
        UserError: Not even the smallest fits.
    """
    needed = math.inf
    for images in (n for n in range(local, 0, -1) if local % n == 0 and _is_taken(config, n)):
        try:
            found = peaks(config, dataset, images, scorer, timesteps)
        except OverflowError:
            continue
        needed = found.total_bytes - found.scorer_bytes
        if needed <= _ROOM * free_bytes:
            return images
    raise UserError(
        f"optim.batch_gpu is auto, but {format_bytes(needed)} for {images} images at a time are more than {_ROOM:.0%} "
        f"of the {format_bytes(free_bytes)} that are free: lower optim.batch, the resolution or the sizes in gan"
    )


def _is_taken(config: Config, images: int) -> bool:
    fixed = replace(config, optim=replace(config.optim, batch_gpu=images))
    try:
        FAMILIES[config.gan.family].check_settings(fixed, images)
    except UserError:
        return False
    return True
