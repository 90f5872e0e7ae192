"""Training images: where they come from, how they are checked, and in which order they are shown."""

from smartfast.data.batches import RealBatch, iterate_batches, sample_indices
from smartfast.data.dataset import ImageDataset, open_dataset

__all__ = ["ImageDataset", "RealBatch", "iterate_batches", "open_dataset", "sample_indices"]
