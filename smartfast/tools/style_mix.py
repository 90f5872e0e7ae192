"""`smartfast style-mix`: images with some of their styles from others, rows by columns (StyleGAN, arXiv 1812.04948)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smartfast.config.ranges import Count, CountOrZero, FilePath, Truncation, in_range
from smartfast.core.grids import save_grid
from smartfast.core.pixels import to_uint8
from smartfast.errors import UserError
from smartfast.families.sampling import Look, Sampler, label_vectors, seeded_latents
from smartfast.families.saved import open_sampler
from smartfast.tools.generate import MAX_SEED, choose_device, class_indices, parse_numbers, seed_labels
from smartfast.tools.output import check_writable, writing

GRID_FILE = "grid.png"
_COARSE = 0.4  # share of the layers that carry pose and shape; stylegan2-ada-pytorch takes 7 of 18


@dataclass(frozen=True)
class StyleMixOptions:
    """Images of some seeds with the styles of other seeds in some layers."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), RUN@best, checkpoint folder or generator_ema.safetensors, of a family
    with style layers. (stylegan2-ada: --network)"""
    out: FilePath = "style-mix.png"
    """A .png file for the grid alone, or a folder for the grid (`grid.png`) and one file per image (`row0-col4.png`).
    (stylegan2-ada: --outdir)"""
    rows: str = "0-3"
    """Seeds of the images that take styles, such as `0-3` or `85,100`. (stylegan2-ada: --rows)"""
    columns: str = "4-9"
    """Seeds of the images whose styles they take. (stylegan2-ada: --cols)"""
    layers: str | None = None
    """Layers whose styles are the column's, from 0 at 4x4 pixels up, such as `0-6`: the first ones are pose and shape,
    the last ones colour. Unset: the first two fifths. (stylegan2-ada: --styles)"""
    classes: str | None = None
    """One class (index, or name where the data had them) for all seeds, or one per seed, those of the rows first.
    Unset: seed s gets class s mod classes."""
    truncation_psi: Truncation = 1.0
    """Truncation: 1 = none, 0 = the mean image. (stylegan2-ada: --trunc)"""
    truncation_cutoff: CountOrZero | None = None
    """Number of leading layers that truncation acts on; unset = all."""
    noise: Literal["const", "none"] = "const"
    """Per-pixel noise: the stored one, the same in every image, or none. (stylegan2-ada: --noise-mode)"""
    batch: Count = 32
    """Images computed at a time; changes nothing but speed and memory."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


def style_mix(options: StyleMixOptions) -> list[Path]:
    """Draw the images and write them.

    The grid has the images of the columns' seeds in its first row, of the rows' seeds in its first column.

    Returns:
        The files written.

    Raises:
        UserError: An option that cannot be understood or does not suit the checkpoint.
    """
    options = in_range(options)
    rows, columns = (parse_numbers(getattr(options, name), name, MAX_SEED) for name in ("rows", "columns"))
    out = Path(options.out)
    is_grid_alone = out.suffix.lower() == ".png"
    if not is_grid_alone and (out.suffix or out.is_file()):
        raise UserError(f"out: found {options.out!r}, expected a .png file or a folder")
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    seeds = [*rows, *columns]
    labels = seed_labels(sampler, seeds, class_indices(options.classes, options.checkpoint))
    check_writable(out.parent if is_grid_alone else out, f"out: {out}")
    look = Look(options.truncation_psi, options.truncation_cutoff, options.noise)
    own = seed_styles(sampler, torch.tensor(seeds), labels, look)
    mixed = mixed_styles(own, len(rows), layer_numbers(options.layers, sampler.style_layers))
    images = images_of(sampler, torch.cat([own, mixed]), look, options.batch)
    grid_file = out if is_grid_alone else out / GRID_FILE
    with writing(f"out: {grid_file}"):
        save_grid(mix_grid(images, len(rows)), grid_file, columns=len(columns) + 1)
    if is_grid_alone:
        print(f"{len(mixed)} images of {len(rows)} rows and {len(columns)} columns: {out}")
        return [out]
    names = [f"row{seed}" for seed in rows] + [f"col{seed}" for seed in columns]
    names += [f"row{row}-col{column}" for row in rows for column in columns]
    files = [out / f"{name}.png" for name in names]
    for path, image in zip(files, images, strict=True):
        with writing(f"out: {path}"):
            save_grid(image[None], path, columns=1, min_pixels=0)
    print(f"{len(files)} images in {out}: {GRID_FILE}, {files[0].name} to {files[-1].name}")
    return [grid_file, *files]


@torch.no_grad()
def seed_styles(sampler: Sampler, seeds: Tensor, labels: Tensor | None, look: Look) -> Tensor:
    """Styles [N, style_layers, F] of seeds int64 [N] and classes int64 [N].

    Raises:
        UserError: The network has no style layers.
    """
    z = seeded_latents(seeds, sampler.z_shape).to(sampler.device)
    return sampler.styles(z, label_vectors(labels, sampler.num_classes, sampler.device), look)


def mixed_styles(own: Tensor, rows: int, layers: list[int]) -> Tensor:
    """The styles of every row, those of `layers` from every column: [rows * columns, L, F], row by row.

    own: [rows + columns, L, F].
    """
    of_rows, of_columns = own[:rows], own[rows:]
    takes = torch.zeros(own.shape[1], dtype=torch.bool, device=own.device)
    takes[layers] = True
    return torch.where(takes[:, None], of_columns[None], of_rows[:, None]).flatten(0, 1)


def layer_numbers(text: str | None, style_layers: int) -> list[int]:
    """The layers of an option `layers`.

    Raises:
        UserError: It cannot be understood, or there are no such layers.
    """
    if text is None:
        return list(range(max(round(_COARSE * style_layers), 1)))
    return parse_numbers(text, "layers", style_layers - 1)


@torch.no_grad()
def images_of(sampler: Sampler, styles: Tensor, look: Look, batch: int) -> Tensor:
    """uint8 [N, C, H, W] on the CPU of styles [N, L, F], `batch` at a time."""
    return torch.cat([to_uint8(sampler.styled(part, look)).cpu() for part in styles.split(batch)])


def mix_grid(images: Tensor, rows: int) -> Tensor:
    """The cells of the grid, row by row, of the rows' images, the columns' and the mixed ones; the corner is empty."""
    columns = (len(images) - rows) // (rows + 1)
    of_rows, of_columns, mixed = images.split([rows, columns, rows * columns])
    first = torch.cat([torch.zeros_like(images[:1]), of_columns])
    rest = torch.cat([of_rows[:, None], mixed.unflatten(0, (rows, columns))], dim=1)
    return torch.cat([first, rest.flatten(0, 1)])
