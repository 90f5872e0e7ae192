"""Stand-ins for training images that are not there yet, so that a run can be described before its data are."""

from pathlib import Path

import numpy as np
import torch

from smartfast.config.schema import DataConfig
from smartfast.core.plane import PREFIX as PLANE_PREFIX
from smartfast.data.dataset import DIGITS, ImageDataset
from smartfast.data.sources.arrays import ArraySource
from smartfast.data.sources.hub import PREFIX as HUB_PREFIX
from smartfast.data.sources.labels import Classes


def is_missing(config: DataConfig) -> bool:
    """Whether data.path names a file or folder that is not there."""
    path = config.path
    return path != DIGITS and not path.startswith((HUB_PREFIX, PLANE_PREFIX)) and not Path(path).expanduser().exists()


def planned_images(config: DataConfig, channels: int = 3) -> ImageDataset | None:
    """Black images of the size and classes that the settings name, one of each class; None where they name none."""
    classes = config.classes if config.labels else 1
    if config.resolution is None or classes is None:
        return None
    images = torch.zeros(classes, config.resolution, config.resolution, channels, dtype=torch.uint8)
    source = ArraySource(f"{config.path}, which is not there,", config.path, images, np.arange(classes))
    infos = [source.inspect(0)] * classes
    labels = Classes(list(range(classes)), classes, None) if config.labels else None
    return ImageDataset(source, None, infos, labels)
