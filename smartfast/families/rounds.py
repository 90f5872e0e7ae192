"""What a phase computes on."""

from typing import NamedTuple

from torch import Tensor


class Round(NamedTuple):
    """The images of one round of gradient accumulation in one process.

    stream: their numbers int64 [N]; images float32 [N, C, H, W] in [-1, 1], leaves of autograd that require a gradient;
    labels int64 [N], vectors float [N, F], or None.
    """

    stream: Tensor
    images: Tensor
    labels: Tensor | None

    def at(self, index: Tensor) -> "Round":
        """The images at these places, int64 [K]."""
        return Round(self.stream[index], self.images[index], None if self.labels is None else self.labels[index])

    def first(self, count: int) -> "Round":
        """The first `count` images."""
        return Round(self.stream[:count], self.images[:count], None if self.labels is None else self.labels[:count])
