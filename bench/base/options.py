"""What a suite is asked to do."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from smartfast.errors import UserError

BUDGET_SEC = 480.0
"""A suite's time on a GPU: 8 minutes."""


@dataclass(frozen=True)
class Options:
    """Of `python -m bench SUITE`.

    configs: Presets or YAML files of the trainer; empty: those that the suite takes by itself.
    overrides: Dotted settings over them, as `--optim.batch=8`.
    device: Where to measure.
    quick: The smallest sizes and few repeats, to see that everything runs; its times mean little.
    budget_sec: A suite starts no further measurement once this time has passed.
    cold: Whether the ops suite empties the caches before every call; None = on CUDA.
    """

    device: torch.device
    configs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    quick: bool = False
    budget_sec: float = BUDGET_SEC
    cold: bool | None = None
    _start_sec: float = field(default_factory=time.monotonic, repr=False)

    @property
    def is_cold(self) -> bool:
        """`cold`, decided."""
        return self.device.type == "cuda" if self.cold is None else self.cold

    @property
    def trial(self) -> dict[str, Any]:
        """Arguments of `measure` for a trial; empty for a measurement."""
        return dict(warm_up_sec=0.0, min_sec=0.0, min_repeats=2) if self.quick else {}

    def time_left_sec(self) -> float:
        """How much of the budget is left; 0 where it is spent."""
        return max(0.0, self.budget_sec - (time.monotonic() - self._start_sec))


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:1`.

    Raises:
        UserError: Another device, or one that is not there.
    """
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise UserError(f"--device is {name}, expected cpu, cuda or cuda:<number>")
    found = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= found:
        raise UserError(f"--device is {name}, and PyTorch finds {found} GPUs here; expected cpu or one of those")
    return torch.device(name)
