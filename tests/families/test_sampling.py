"""Samples for grids and metrics: functions of the sample number, classes in their columns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smartfast.config.schema import DataConfig
from smartfast.core.draws import Purpose
from smartfast.core.grids import GridShape
from smartfast.core.pixels import to_uint8
from smartfast.data import open_dataset
from smartfast.families.sampling import PLAIN, Look, Sampler, column_class, real_grid
from smartfast.families.stylegan2.sampler import StyleGan2Sampler
from smartfast.networks.stylegan2 import Generator


def sampler(c_dim: int) -> Sampler:
    torch.manual_seed(0)
    g = Generator(
        z_dim=4, c_dim=c_dim, w_dim=4, resolution=8, channels=1, mapping_layers=1, channel_base=32, channel_max=4
    )
    return StyleGan2Sampler(g.eval(), data_labels=torch.arange(100) % c_dim if c_dim else None, seed=1)


def test_samples_do_not_depend_on_the_batch() -> None:
    draw = sampler(c_dim=3)
    images, labels = draw(torch.arange(10))
    assert images.dtype == torch.uint8 and len(images.unique()) > 10
    for n in (0, 4, 9):
        one, label = draw(torch.tensor([n]))
        assert label == labels[n]
        assert (one[0].int() - images[n].int()).abs().max() <= 1  # convolutions round differently for another batch


class Rows(Sampler):
    """The latents and label vectors themselves, as images of one row."""

    z_shape = (2, 3)

    def images(self, z: torch.Tensor, c: torch.Tensor | None, seeds: torch.Tensor, look: Look) -> torch.Tensor:
        assert z.shape[1:] == self.z_shape and len(seeds) == len(z)
        rows = z.flatten(1) if c is None else torch.cat([z.flatten(1), c], dim=1)
        return (rows * look.psi)[:, None, None]


def test_a_latent_and_a_label_are_drawn_from_the_samples_numbers() -> None:
    data_labels = torch.tensor([0, 2, 2, 2])
    of = dict(image_shape=(1, 1, 9), num_classes=3)
    draw = Rows(nn.Linear(1, 1), data_labels=data_labels, seed=1, **of)
    numbers = torch.arange(20000)
    rows, labels = draw.draw(Purpose.D_MAIN, numbers, None)
    z, c = rows[:, 0, 0].split([6, 3], dim=1)
    assert torch.equal(c.argmax(dim=1), labels) and torch.equal(c.sum(dim=1), torch.ones(20000))
    assert labels.bincount().div(20000).tolist() == pytest.approx([0.25, 0, 0.75], abs=0.02)
    assert torch.allclose(z.T.cov(), torch.eye(6), atol=0.05) and z.mean(dim=0).abs().max() < 0.05
    few, few_labels = draw.draw(Purpose.D_MAIN, numbers[[7, 3]], None)
    assert torch.equal(few, rows[[7, 3]]) and torch.equal(few_labels, labels[[7, 3]])
    given, _ = draw.draw(Purpose.D_MAIN, numbers[:2], torch.tensor([1, 1]))
    assert torch.equal(given[:, 0, 0], torch.cat([z[:2], torch.tensor([[0.0, 1, 0]] * 2)], dim=1))
    others = (
        draw.draw(Purpose.G_MAIN, numbers, None),
        draw.of_data(data_labels, seed=2).draw(Purpose.D_MAIN, numbers, None),
    )
    for other, _ in others:
        assert (other[:, 0, 0, :6] == z).float().mean() < 0.01


def test_the_sampler_of_other_data_is_the_same_network() -> None:
    draw = Rows(nn.Linear(1, 1), data_labels=torch.tensor([1]), seed=1, image_shape=(1, 1, 9), num_classes=3)
    other = draw.of_data(torch.tensor([2]), seed=1, look=Look(psi=0.5))
    numbers = torch.arange(4)
    rows, halves = (each.draw(Purpose.SAMPLE, numbers, None)[0][..., :6] for each in (draw, other))
    assert torch.allclose(halves, rows / 2) and other.module is draw.module
    assert draw.look == PLAIN and other.draw(Purpose.SAMPLE, numbers, None)[1].tolist() == [2] * 4


def test_columns_are_classes() -> None:
    cells = torch.arange(8)
    assert column_class(cells, GridShape(2, 4), 4).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert column_class(cells, GridShape(2, 4), 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert column_class(cells, GridShape(2, 4), 1000).tolist() == [0, 250, 500, 750] * 2


def test_grid_of_reals_has_one_class_per_column() -> None:
    dataset = open_dataset(DataConfig(path="digits", resolution=8, labels=True))
    grid = real_grid(dataset, GridShape(3, 10))
    images = dataset.all_images().flatten(1)
    for cell, image in enumerate(grid.flatten(1)):
        match = (images == image).all(dim=1).nonzero()[0, 0]
        assert dataset.labels[match] == cell % 10


def test_a_class_without_images_is_a_black_column(tmp_path: Path) -> None:
    pixels = np.arange(1, 7, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.array([0, 0, 2, 2, 3, 3]))
    dataset = open_dataset(DataConfig(path=str(tmp_path / "set.npz"), labels=True))
    assert real_grid(dataset, GridShape(2, 4))[:, 0, 0, 0].tolist() == [1, 0, 3, 5, 2, 0, 4, 6]


def test_grid_is_the_generator_on_grid_latents() -> None:
    draw = sampler(c_dim=0)
    whole, pieces = draw.grid(GridShape(2, 3)), draw.grid(GridShape(2, 3), batch=4)
    assert whole.shape == (6, 1, 8, 8)
    assert (whole.int() - pieces.int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[1])


def test_uint8_covers_the_range() -> None:
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
