"""Samples for grids and metrics: functions of the sample number, classes in their columns."""

import torch

from smartfast.config.schema import DataConfig
from smartfast.core.grids import GridShape
from smartfast.core.pixels import to_uint8
from smartfast.data import open_dataset
from smartfast.families.sampling import Sampler, column_class, real_grid
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


def test_grid_is_the_generator_on_grid_latents() -> None:
    draw = sampler(c_dim=0)
    whole, pieces = draw.grid(GridShape(2, 3)), draw.grid(GridShape(2, 3), batch=4)
    assert whole.shape == (6, 1, 8, 8)
    assert (whole.int() - pieces.int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[1])


def test_uint8_covers_the_range() -> None:
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
