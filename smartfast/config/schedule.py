"""Settings that change while a run goes on: a number, or a schedule over the images seen."""

import bisect
import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A value that follows the images seen, given at some points; constant before the first and after the last.

    `smartfast.config.ranges` checks it: an error that is raised here would not name the setting.
    """

    kind: Literal["linear", "cosine", "piecewise"]
    """Between two points: a straight line, half a cosine, or the value of the earlier one until the later one."""
    kimg: tuple[float, ...]
    """The points, in thousands of images, rising."""
    values: tuple[float, ...]
    """The value at each point."""

    def at(self, images: int) -> float:
        """The value once `images` images have been seen."""
        kimg = images / 1000
        place = bisect.bisect_right(self.kimg, kimg)
        if place == 0 or place == len(self.kimg) or self.kind == "piecewise":
            return self.values[max(place - 1, 0)]
        start, end = self.kimg[place - 1], self.kimg[place]
        fraction = (kimg - start) / (end - start)
        if self.kind == "cosine":
            fraction = (1 - math.cos(math.pi * fraction)) / 2
        return self.values[place - 1] + fraction * (self.values[place] - self.values[place - 1])


Quantity = float | Schedule
"""What a scheduled setting may be."""


def value_at(quantity: Quantity, images: int) -> float:
    """The value of a setting once `images` images have been seen."""
    return quantity.at(images) if isinstance(quantity, Schedule) else quantity


def values_of(quantity: Quantity) -> tuple[float, ...]:
    """Every value at a point of a setting; all others lie between two of them."""
    return quantity.values if isinstance(quantity, Schedule) else (quantity,)


def in_words(quantity: Quantity) -> str:
    """A setting's value, or the first and the last of its schedule."""
    if isinstance(quantity, Schedule):
        return f"{quantity.kind} {quantity.values[0]:g} to {quantity.values[-1]:g}"
    return f"{quantity:g}"
