"""The bundled scorer of the digits."""

import pytest
import torch
import torch.nn.functional as F

from smartfast.data.digits import load_digits
from smartfast.scorers import check_scorer, load_scorer
from smartfast.scorers.bands import eps_loss_by_band
from smartfast.scorers.holdout import split
from smartfast.scorers.loading import BUNDLED


@pytest.fixture(scope="module")
def scorer():
    return load_scorer("digits")


@pytest.fixture(scope="module")
def held_out():
    """The images that configs/digits_scorer.yaml keeps out of the training."""
    images, labels = load_digits(16)
    chosen = torch.arange(180) * len(images) // 180
    return images[chosen].float() / 127.5 - 1, labels[chosen]


def test_fits_the_bundled_digits(scorer):
    check_scorer(scorer, resolution=16, channels=1, num_classes=10, name="digits")
    assert scorer.num_timesteps == 1000 and scorer.parameterization == "eps"
    assert sum(file.stat().st_size for file in BUNDLED["digits"].iterdir()) < 2e6


def test_knows_digits_it_has_not_seen(scorer, held_out):
    losses = eps_loss_by_band(scorer, *held_out)
    assert losses["25-49"] < 0.16 and losses["100-199"] < 0.08 and losses["400-699"] < 0.012


def test_prefers_digits_to_damaged_ones(scorer, held_out):
    images, labels = held_out
    good = eps_loss_by_band(scorer, images, labels)
    rough = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    blurred = F.avg_pool2d(images, 5, stride=1, padding=2)
    for damaged, bands in ((rough, ("10-24", "25-49", "50-99", "100-199")), (blurred, ("100-199", "200-399"))):
        bad = eps_loss_by_band(scorer, damaged, labels)
        assert all(bad[band] > 1.05 * good[band] for band in bands)


def test_prefers_the_right_class(scorer, held_out):
    images, labels = held_out
    right, wrong = (eps_loss_by_band(scorer, images, (labels + shift) % 10) for shift in (0, 3))
    assert all(wrong[band] > 1.05 * right[band] for band in ("100-199", "200-399", "400-699"))


def test_split_of_the_test_is_the_split_of_the_training():
    from smartfast.config import DataConfig
    from smartfast.data import open_dataset

    _, held_out = split(open_dataset(DataConfig(resolution=16)), 180)
    assert torch.equal(held_out.indices, torch.arange(180) * 1797 // 180)
