"""`smartfast style-mix`: whose styles each image has, the grid, files, networks without styles, bad options."""

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.tools.generate import GenerateOptions, generate
from smartfast.tools.style_mix import StyleMixOptions, layer_numbers, style_mix


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture).astype(int)


def options(run, **changes) -> StyleMixOptions:
    return StyleMixOptions(
        **{"checkpoint": str(run), "device": "cpu", "rows": "0,7", "columns": "3-5", "layers": "1-2", **changes}
    )


def test_every_layer_has_the_style_of_its_row_or_column(make_checkpoint, tmp_path):
    run = make_checkpoint(c_dim=3, channels=3)
    changes = dict(classes="1", truncation_psi=0.8, truncation_cutoff=2)
    written = style_mix(options(run, out=str(tmp_path), **changes))
    assert len(written) == 1 + 2 + 3 + 6 and all(path.is_file() for path in written)
    generator = open_sampler(run).module
    c = torch.tensor([[0.0, 1.0, 0.0]])

    def ws(seed):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        return generator.mapping(z, c, 0.8, 2)

    for row in (0, 7):
        for column in (3, 5):
            mixed = ws(row)
            mixed[:, 1:3] = ws(column)[:, 1:3]
            expected = (generator.synthesis(mixed, "const") * 127.5 + 128).clamp(0, 255).to(torch.uint8)
            image = pixels(tmp_path / f"row{row}-col{column}.png")
            assert np.abs(image - expected[0].permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_seeds_of_their_own_are_those_of_generate(make_checkpoint, tmp_path):
    run = make_checkpoint(c_dim=3)
    style_mix(options(run, out=str(tmp_path / "mix"), batch=2))
    generate(GenerateOptions(str(run), str(tmp_path / "own"), seeds="0,7,3", device="cpu"))
    for name, own in (("row0", "seed0000_class0"), ("row7", "seed0007_class1"), ("col3", "seed0003_class0")):
        difference = pixels(tmp_path / "mix" / f"{name}.png") - pixels(tmp_path / "own" / f"{own}.png")
        assert np.abs(difference).max() <= 1


def test_the_grid_has_the_sources_at_its_edges(make_checkpoint, tmp_path):
    grid_file, *singles = style_mix(options(make_checkpoint(), out=str(tmp_path / "all")))
    (alone,) = style_mix(options(make_checkpoint(), out=str(tmp_path / "grid.png")))
    grid = pixels(grid_file)
    assert np.array_equal(grid, pixels(alone)) and grid.shape == (8 * (3 * 9 + 1), 8 * (4 * 9 + 1))
    by_name = {path.stem: pixels(path) for path in singles}
    cells = [[None, "col3", "col4", "col5"]]
    cells += [[f"row{row}", *(f"row{row}-col{column}" for column in (3, 4, 5))] for row in (0, 7)]
    for y, line in enumerate(cells):
        for x, name in enumerate(line):
            cell = grid[8 * (9 * y + 1) : 8 * (9 * y + 9) : 8, 8 * (9 * x + 1) : 8 * (9 * x + 9) : 8]
            assert np.array_equal(cell, by_name[name] if name else np.zeros((8, 8)))


def test_all_layers_of_the_column_are_the_column(make_checkpoint, tmp_path):
    style_mix(options(make_checkpoint(), out=str(tmp_path), layers="0-3"))
    assert open_sampler(make_checkpoint()).style_layers == 4
    for row in (0, 7):
        assert np.abs(pixels(tmp_path / f"row{row}-col4.png") - pixels(tmp_path / "col4.png")).max() <= 1


@pytest.mark.parametrize(("layers", "expected"), [(18, 7), (14, 6), (4, 2), (1, 1)])
def test_layers_that_are_mixed_by_default(layers, expected):
    assert layer_numbers(None, layers) == list(range(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rows="x"), "^rows: found 'x'"),
        (dict(columns="3-1"), "^columns: found '3-1'"),
        (dict(layers="0-4"), "^layers: found '0-4', expected rising numbers from 0 to 3"),
        (dict(classes="0,1"), "^classes: found 2 classes, expected 1 or as many as seeds \\(5\\)"),
        (dict(out="mix.jpg"), "^out: found 'mix.jpg'"),
        (dict(checkpoint="nowhere"), "nowhere: expected a run folder"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_bad_options(make_checkpoint, changes, message):
    with pytest.raises(UserError, match=message) as error:
        style_mix(options(make_checkpoint(c_dim=3), **changes))
    assert "\n" not in str(error.value)
