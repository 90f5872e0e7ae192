"""Sheets: shape, place of every pixel, enlargement, file formats."""

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.core.grids import grid_shape, save_grid, to_pillow


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("num_classes", [2, 10, 20])
@pytest.mark.parametrize("resolution", [8, 16, 256, 1024])
def test_few_classes_get_a_column_each(resolution, num_classes):
    shape = grid_shape(resolution, num_classes)
    assert shape.columns == num_classes and shape.rows >= 3
    assert shape.cells == shape.rows * shape.columns


@pytest.mark.parametrize("num_classes", [0, 1, 1000])
def test_larger_images_give_fewer_cells(num_classes):
    cells = [grid_shape(resolution, num_classes).cells for resolution in (16, 128, 256, 512, 1024)]
    assert cells == sorted(cells, reverse=True) and cells[0] > 5 * cells[-1]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_saved_pixels_are_the_images(tmp_path, channels):
    images = random_images(5, channels, 6, 6)
    save_grid(images, tmp_path / "deep" / "sheet.png", columns=3, min_pixels=0)
    with Image.open(tmp_path / "deep" / "sheet.png") as picture:
        pixels = np.array(picture).reshape(12, 18, channels)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        cell = pixels[row * 6 : row * 6 + 6, column * 6 : column * 6 + 6]
        assert np.array_equal(cell, image.permute(1, 2, 0).numpy())
    assert not pixels[6:, 12:].any()


def test_small_images_become_squares_with_lines_between():
    images = random_images(2, 1, 5, 5)
    pixels = np.array(to_pillow(images, columns=2, min_pixels=18))  # the least factor is 4
    assert pixels.shape == (4 * 7, 4 * 13)
    for i, image in enumerate(images):
        left = 4 * (1 + 6 * i)
        expected = image[0].repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
        assert np.array_equal(pixels[4:24, left : left + 20], expected)
    assert (pixels[:4] == pixels[0, 0]).all() and (pixels[:, 24:28] == pixels[0, 0]).all()


def test_one_image_has_no_border():
    image = random_images(1, 3, 8, 8)
    assert to_pillow(image, min_pixels=32).size == (32, 32)
    assert np.array_equal(np.array(to_pillow(image)), image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 4, 4), random_images(2, 2, 4, 4), random_images(2, 3, 4, 4)[0], random_images(0, 3, 4, 4)],
    ids=["float", "two channels", "no batch", "empty"],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match="expected uint8"):
        to_pillow(images)
