"""Means of what phases report, summed on the device and read once per tick."""

import math
from collections import defaultdict

import torch
from torch import Tensor

from smartfast.core.distributed import average_over_processes_


class Statistics:
    """Sums of statistics on the device.

    They stay in the same memory from the first addition on, so that a captured CUDA graph can add to them. A value that
    is not finite, which a skipped step reports, is left out of its mean.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add scalars; a name's mean is taken over all finite additions since the last `read`."""
        row = torch.stack([value.float() for value in values.values()])
        finite = torch.isfinite(row)
        names = tuple(values)
        if names not in self._sums:
            self._sums[names] = torch.zeros(3, len(names), device=row.device)
        self._sums[names] += torch.stack([torch.where(finite, row, 0.0), finite.float(), torch.ones_like(row)])

    def clear(self) -> None:
        """Start anew, in the same memory, without reading."""
        for total in self._sums.values():
            total.zero_()

    def read(self) -> dict[str, float]:
        """Mean of each name over additions and processes, nan where none was finite; one transfer; starts anew."""
        if not self._sums:
            return {}
        sums = average_over_processes_(torch.cat([total.flatten() for total in self._sums.values()])).tolist()
        rows: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for names, total in self._sums.items():
            size = len(names)
            parts = [sums[start : start + size] for start in (0, size, 2 * size)]
            sums = sums[3 * size :]
            total.zero_()
            for name, *row in zip(names, *parts, strict=True):
                rows[name] = [a + b for a, b in zip(rows[name], row, strict=True)]
        means = {name: value / finite if finite else math.nan for name, (value, finite, added) in rows.items() if added}
        return dict(sorted(means.items()))
