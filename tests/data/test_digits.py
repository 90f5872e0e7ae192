"""The bundled digits are scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smartfast.data.sources import digits
from smartfast.data.sources.digits import BUNDLED_FILE, load_digits


def test_bundled_file_equals_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    truth = datasets.load_digits()
    with np.load(BUNDLED_FILE) as bundled:
        np.testing.assert_array_equal(bundled["images"], truth.images)
        np.testing.assert_array_equal(bundled["labels"], truth.target)


def test_command_writes_the_bundled_file_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn.datasets")
    monkeypatch.setattr(digits, "BUNDLED_FILE", tmp_path / "digits.npz")
    digits._write_bundled_file()
    with np.load(BUNDLED_FILE) as bundled, np.load(tmp_path / "digits.npz") as written:
        assert bundled.files == written.files
        for name in bundled.files:
            assert bundled[name].dtype == written[name].dtype
            np.testing.assert_array_equal(bundled[name], written[name])


def test_native_resolution_is_the_file_scaled() -> None:
    images, labels = load_digits(8)
    with np.load(BUNDLED_FILE) as bundled:
        expected = np.round(bundled["images"].astype(np.float64) / 16 * 255)
    np.testing.assert_allclose(images[:, 0].numpy().astype(np.float64), expected, atol=1)
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.uint8
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("resolution", [16, 32])
def test_enlarged_digits_average_to_the_originals(resolution: int) -> None:
    small = load_digits(8)[0].double()
    block_means = torch.nn.functional.avg_pool2d(load_digits(resolution)[0].double(), resolution // 8)
    correlation = torch.corrcoef(torch.stack([small.flatten(), block_means.flatten()]))[0, 1]
    assert correlation > 0.99
