"""What an augmentation does to each image of a batch, drawn from the images' numbers."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.augment.pipes import Pipe
from smartfast.core.draws import Purpose
from smartfast.kernels import philox_normal, philox_uniform


class Transforms(NamedTuple):
    """One row for every image, in the order in which they are applied; None = not in the pipe.

    flip: 1 = mirrored, [N]. quarters: quarter turns [N]. shift: whole pixels after rounding, and move: pixels, both as
    a share of width and height [N, 2]. zoom: factor [N]. turn_before, turn_after: radians [N], before and after the
    factor stretch [N] of the width. brightness: added [N]; contrast, saturation: factors [N]; inverted: 1 = luma is
    mirrored at 0 [N]; hue: radians [N]. bands: factors of four frequency bands [N, 4]. noise: standard deviation [N].
    hole: side of a black square as a share of the image's [N], and its centre [N, 2].
    """

    flip: Tensor | None = None
    quarters: Tensor | None = None
    shift: Tensor | None = None
    zoom: Tensor | None = None
    turn_before: Tensor | None = None
    stretch: Tensor | None = None
    turn_after: Tensor | None = None
    move: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    inverted: Tensor | None = None
    hue: Tensor | None = None
    saturation: Tensor | None = None
    bands: Tensor | None = None
    noise: Tensor | None = None
    hole: Tensor | None = None
    centre: Tensor | None = None


UNIFORMS, NORMALS = 29, 12
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Expected share of each band in the power of natural images, 1 / f^2; amplifying one keeps the total."""


def draw_transforms(pipe: Pipe, p: Tensor, seed: int, stream: Tensor, purpose: int) -> Transforms:
    """Transforms of the images `stream` int64 [N], each applied with probability p times its multiplier.

    The numbers of a transform do not depend on what else is in the pipe.

    Args:
        p: Scalar tensor on the device of `stream`.
        seed, purpose: Key of the draws.
    """
    draws = _Draws(p, seed, stream, purpose)
    everything = _draw_geometry(pipe, draws) | _draw_colors(pipe, draws) | _draw_corruptions(pipe, draws)
    return Transforms(**everything)


class _Draws:
    """Numbers of each image, taken one after the other."""

    def __init__(self, p: Tensor, seed: int, stream: Tensor, purpose: int) -> None:
        self.p = p
        self._uniform = _columns(philox_uniform(seed, stream, UNIFORMS, purpose + Purpose.CHOICES))
        self._normal = _columns(philox_normal(seed, stream, NORMALS, purpose))

    def uniform(self) -> Tensor:
        return next(self._uniform)

    def symmetric(self) -> Tensor:
        """Uniform in [-1, 1)."""
        return 2 * self.uniform() - 1

    def normal(self) -> Tensor:
        return next(self._normal)

    def where(self, multiplier: float, value: Tensor, neutral: float) -> Tensor | None:
        """`value` [N] or [N, 2] with probability p times the multiplier; None = never, though the number is drawn."""
        drawn = self.with_chance(multiplier * self.p, value, neutral)
        return drawn if multiplier else None

    def with_chance(self, chance: Tensor, value: Tensor, neutral: float) -> Tensor:
        """`value` with a probability, else `neutral`."""
        chosen = self.uniform() < chance
        return torch.where(chosen[:, None] if value.ndim == 2 else chosen, value, neutral)


def _columns(numbers: Tensor) -> Iterator[Tensor]:
    return iter(numbers.unbind(dim=1))


def _draw_geometry(pipe: Pipe, draws: _Draws) -> dict[str, Tensor | None]:
    flip = draws.where(pipe.xflip, (draws.uniform() * 2).floor(), 0.0)
    quarters = draws.where(pipe.rotate90, (draws.uniform() * 4).floor(), 0.0)
    pixels = torch.stack([draws.symmetric(), draws.symmetric()], dim=1) * pipe.xint_max
    shift = draws.where(pipe.xint, pixels, 0.0)
    zoom = draws.where(pipe.scale, torch.exp2(draws.normal() * pipe.scale_std), 1.0)
    # Two turns, each with the chance that makes either happen with that of `rotate`.
    once = 1 - (1 - pipe.rotate * draws.p).clamp(0, 1).sqrt()
    before = draws.with_chance(once, draws.symmetric() * (math.pi * pipe.rotate_max), 0.0)
    stretch = draws.where(pipe.aniso, torch.exp2(draws.normal() * pipe.aniso_std), 1.0)
    after = draws.with_chance(once, draws.symmetric() * (math.pi * pipe.rotate_max), 0.0)
    move = torch.stack([draws.normal(), draws.normal()], dim=1) * pipe.xfrac_std
    turns = (before, after) if pipe.rotate else (None, None)
    return dict(
        flip=flip,
        quarters=quarters,
        shift=shift,
        zoom=zoom,
        turn_before=turns[0],
        stretch=stretch,
        turn_after=turns[1],
        move=draws.where(pipe.xfrac, move, 0.0),
    )


def _draw_colors(pipe: Pipe, draws: _Draws) -> dict[str, Tensor | None]:
    return dict(
        brightness=draws.where(pipe.brightness, draws.normal() * pipe.brightness_std, 0.0),
        contrast=draws.where(pipe.contrast, torch.exp2(draws.normal() * pipe.contrast_std), 1.0),
        inverted=draws.where(pipe.lumaflip, (draws.uniform() * 2).floor(), 0.0),
        hue=draws.where(pipe.hue, draws.symmetric() * (math.pi * pipe.hue_max), 0.0),
        saturation=draws.where(pipe.saturation, torch.exp2(draws.normal() * pipe.saturation_std), 1.0),
    )


def _draw_corruptions(pipe: Pipe, draws: _Draws) -> dict[str, Tensor | None]:
    factors = []
    for strength in pipe.imgfilter_bands:
        chance = pipe.imgfilter * strength * draws.p
        factors.append(draws.with_chance(chance, torch.exp2(draws.normal() * pipe.imgfilter_std), 1.0))
    noise = draws.where(pipe.noise, draws.normal().abs() * pipe.noise_std, 0.0)
    centre = torch.stack([draws.uniform(), draws.uniform()], dim=1)
    hole = draws.where(pipe.cutout, torch.full_like(centre[:, 0], pipe.cutout_size), 0.0)
    return dict(bands=band_gains(factors) if pipe.imgfilter else None, noise=noise, hole=hole, centre=centre)


def band_gains(factors: Sequence[Tensor]) -> Tensor:
    """Gains of the four bands [N, 4], each amplified by its factor [N] in turn while the expected power stays."""
    power = torch.ones_like(factors[0])
    for factor, share in zip(factors, BAND_POWER, strict=True):
        power = power * (share * factor.square() + (1 - share))
    return torch.stack(list(factors), dim=1) * power.rsqrt()[:, None]
