"""What a suite is asked to do."""

import time
from dataclasses import dataclass, field

import torch

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
    """

    device: torch.device
    configs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    quick: bool = False
    budget_sec: float = BUDGET_SEC
    _start_sec: float = field(default_factory=time.monotonic, repr=False)

    def time_left_sec(self) -> float:
        """How much of the budget is left; 0 where it is spent."""
        return max(0.0, self.budget_sec - (time.monotonic() - self._start_sec))
