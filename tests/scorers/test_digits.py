"""The bundled scorer of the digits."""

import pytest
import torch
import torch.nn.functional as F

from smartfast.data.holdout import split
from smartfast.data.sources.digits import load_digits
from smartfast.scorers import check_scorer, load_scorer
from smartfast.scorers.bands import eps_loss_by_band
from smartfast.scorers.loading import BUNDLED


@pytest.fixture(scope="module")
def scorer():
    return load_scorer("digits")


@pytest.fixture(scope="module")
def held_out():
    """The images that configs/scorers/digits.yaml keeps out of the training."""
    images, labels = load_digits(16)
    chosen = torch.arange(180) * len(images) // 180
    return images[chosen].float() / 127.5 - 1, labels[chosen]


def test_fits_the_bundled_digits(scorer):
    check_scorer(scorer, resolution=16, channels=1, num_classes=10, name="digits")
    assert scorer.num_timesteps == 1000 and scorer.parameterization == "eps"
    assert sum(file.stat().st_size for file in BUNDLED["digits"].iterdir()) < 2e6


def test_knows_digits_it_has_not_seen(scorer, held_out):
    losses = eps_loss_by_band(scorer, *held_out, bands=((25, 49), (100, 199), (400, 699)))
    assert losses["25-49"] < 0.16 and losses["100-199"] < 0.08 and losses["400-699"] < 0.012


def roughened(images):
    return images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def blurred(images):
    return F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)


@pytest.mark.parametrize(
    ("damage", "bands"), [(roughened, ((10, 24), (25, 49), (100, 199))), (blurred, ((25, 49), (100, 199), (200, 399)))]
)
def test_prefers_digits_to_damaged_ones(scorer, held_out, damage, bands):
    images, labels = (part[::3] for part in held_out)
    good = eps_loss_by_band(scorer, images, labels, bands=bands)
    bad = eps_loss_by_band(scorer, damage(images), labels, bands=bands)
    assert all(bad[band] > 1.3 * good[band] for band in good)


def test_prefers_the_right_class(scorer, held_out):
    images, labels = (part[::3] for part in held_out)
    bands = ((100, 199), (200, 399), (400, 699))
    right, wrong = (eps_loss_by_band(scorer, images, (labels + shift) % 10, bands=bands) for shift in (0, 3))
    assert all(wrong[band] > 1.3 * right[band] for band in right)


def test_split_of_the_test_is_the_split_of_the_training():
    from smartfast.config.schema import DataConfig
    from smartfast.data import open_dataset

    _, held_out = split(open_dataset(DataConfig(resolution=16)), 180)
    assert torch.equal(held_out.indices, torch.arange(180) * 1797 // 180)
