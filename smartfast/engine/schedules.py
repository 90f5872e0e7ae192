"""Numbers that change while a run goes on, as scalars on the device, where compiled phases and graphs read them."""

from collections.abc import Callable

import torch
from torch import Tensor


class DeviceScalars:
    """0-dim tensors that follow functions of the images seen. They stay in the same memory.

    Args:
        device: Where they live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._scalars: list[tuple[Tensor, Callable[[int], float]]] = []
        self._written: list[float] = []

    def add(self, function: Callable[[int], float], dtype: torch.dtype = torch.float32) -> Tensor:
        """A scalar that is `function(images)`, from now on and after every `set`."""
        value = function(0)
        scalar = torch.full([], value, dtype=dtype, device=self.device)
        self._scalars.append((scalar, function))
        self._written.append(value)
        return scalar

    def set(self, images: int) -> None:
        """Give every scalar its value for an iteration that begins after `images` images; writes what has changed."""
        for index, (scalar, function) in enumerate(self._scalars):
            value = function(images)
            if value != self._written[index]:
                scalar.fill_(value)
                self._written[index] = value
