"""Shared by the tests of the commands."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from smartfast.families.denoiser.family import DenoiserFamily


class Killed(Exception):
    """What a run dies of."""


@contextmanager
def _killed_at_second_export() -> Iterator[None]:
    export, calls = DenoiserFamily.export, []

    def die(self: DenoiserFamily, run_dir: Path, weights: dict[str, torch.Tensor]) -> None:
        calls.append(run_dir)
        if len(calls) > 1:
            raise Killed
        export(self, run_dir, weights)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DenoiserFamily, "export", die)
        yield


@pytest.fixture(scope="session")
def killed_at_second_export() -> Callable[[], AbstractContextManager[None]]:
    """A context: the scorer's training within is killed, and must be, while it exports for the second time."""
    return _killed_at_second_export
