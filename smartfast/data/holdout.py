"""Splits a data set into a part to train on and a part kept out of it."""

import torch
from torch import Tensor

from smartfast.core.parallel import ordered_map
from smartfast.data.dataset import ImageDataset
from smartfast.errors import UserError


class DatasetPart:
    """Some images of a data set, with what `iterate_batches` asks of one.

    Args:
        dataset: The whole.
        indices: int64, the images of the part.
    """

    def __init__(self, dataset: ImageDataset, indices: Tensor) -> None:
        self.dataset, self.indices = dataset, indices
        self.name, self.resolution, self.channels = dataset.name, dataset.resolution, dataset.channels
        self.num_classes, self.class_names = dataset.num_classes, dataset.class_names
        self.labels = None if dataset.labels is None else dataset.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Tensor:
        """Image uint8 [C, H, W]."""
        return self.dataset.image(int(self.indices[index]))

    def all_images(self) -> Tensor:
        """All images of the part, uint8 [len, C, H, W]; a small part is decoded alone, not with the whole."""
        if len(self) > len(self.dataset) // 2:
            return self.dataset.all_images()[self.indices]
        return torch.stack(list(ordered_map(self.image, range(len(self)), total=len(self), title=self.name)))


TrainingImages = ImageDataset | DatasetPart
"""A whole data set, or a part of one."""


def split(dataset: ImageDataset, holdout: int) -> tuple[TrainingImages, DatasetPart | None]:
    """The part to train on, and `holdout` images at even distances; the whole and None for 0.

    Raises:
        UserError: `holdout` is negative or leaves nothing to train on.
    """
    size = len(dataset)
    if not 0 <= holdout < size:
        raise UserError(f"data.holdout is {holdout}, expected 0 to {size - 1}, fewer than the images of {dataset.name}")
    if not holdout:
        return dataset, None
    kept_out = torch.arange(holdout) * size // holdout
    training = torch.ones(size, dtype=torch.bool).index_fill(0, kept_out, False)
    return DatasetPart(dataset, training.nonzero()[:, 0]), DatasetPart(dataset, kept_out)
