"""Data sets made of chosen digits, and samplers that show given images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from smartfast.config.schema import DataConfig
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.sources.digits import load_digits
from smartfast.metrics.collect import ImageSource


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metrics cache, away from the user's."""
    monkeypatch.setenv("SMARTFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """The first 600 bundled digits, uint8 [600, 1, 16, 16], and their labels."""
    images, labels = load_digits(16)
    return images[:600], labels[:600]


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., ImageDataset]:
    """make_dataset(images uint8 [N, C, H, W], labels or None, name="reals")."""

    def make(images: Tensor, labels: Tensor | None, name: str = "reals") -> ImageDataset:
        arrays = {"images": images.movedim(1, 3).numpy()}
        if labels is not None:
            arrays["labels"] = labels.numpy()
        np.savez(tmp_path / f"{name}.npz", **arrays)
        return open_dataset(DataConfig(path=str(tmp_path / f"{name}.npz"), labels=labels is not None))

    return make


@pytest.fixture
def showing() -> Callable[..., ImageSource]:
    """showing(images, labels): a sampler whose sample n is image n."""

    def make(images: Tensor, labels: Tensor | None) -> ImageSource:
        return lambda numbers: (images[numbers], None if labels is None else labels[numbers])

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
