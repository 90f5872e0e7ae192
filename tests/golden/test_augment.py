"""Adaptive discriminator augmentation against stylegan2-ada-pytorch's, every draw at one percentile."""

import math
from typing import Any

import torch
from torch import Tensor

from smartfast.augment import Pipe
from smartfast.augment.ada import Augmentation
from smartfast.augment.transforms import Transforms, band_gains

GOLDEN_TOPIC = "ada_augment"


def transforms_at(percentile: float, pipe: Pipe, n: int, dtype: torch.dtype) -> Transforms:
    """Every transform of the pipe, with the draw at `percentile` of its distribution as the vectors have it."""
    normal = torch.erfinv(torch.tensor(2 * percentile - 1, dtype=torch.float64)).item()
    symmetric = 2 * percentile - 1

    def rows(multiplier: float, *values: float) -> Tensor | None:
        rows = torch.tensor(values, dtype=dtype).repeat(n, 1)
        return (rows[:, 0] if len(values) == 1 else rows) if multiplier else None

    bands = [
        torch.full([n], 2 ** (normal * pipe.imgfilter_std) if on else 1.0, dtype=dtype) for on in pipe.imgfilter_bands
    ]
    return Transforms(
        flip=rows(pipe.xflip, math.floor(2 * percentile)),
        quarters=rows(pipe.rotate90, math.floor(4 * percentile)),
        shift=rows(pipe.xint, *[symmetric * pipe.xint_max] * 2),
        zoom=rows(pipe.scale, 2 ** (normal * pipe.scale_std)),
        turn_before=rows(pipe.rotate, symmetric * math.pi * pipe.rotate_max),
        stretch=rows(pipe.aniso, 2 ** (normal * pipe.aniso_std)),
        turn_after=rows(pipe.rotate, 0.0),
        move=rows(pipe.xfrac, *[normal * pipe.xfrac_std] * 2),
        brightness=rows(pipe.brightness, normal * pipe.brightness_std),
        contrast=rows(pipe.contrast, 2 ** (normal * pipe.contrast_std)),
        inverted=rows(pipe.lumaflip, math.floor(2 * percentile)),
        hue=rows(pipe.hue, symmetric * math.pi * pipe.hue_max),
        saturation=rows(pipe.saturation, 2 ** (normal * pipe.saturation_std)),
        bands=band_gains(bands) if pipe.imgfilter else None,
        noise=rows(pipe.noise, torch.erfinv(torch.tensor(percentile, dtype=torch.float64)).item() * pipe.noise_std),
        hole=rows(pipe.cutout, pipe.cutout_size),
        centre=rows(pipe.cutout, percentile, percentile),
    )


def test_images_and_gradients(case: Any, compare: Any) -> None:
    """Both in float32 and float64; the filters are float32 as in the original."""
    options = dict(case.args)
    percentile = options.pop("debug_percentile")
    images = case.inputs["images"].requires_grad_()
    pipe = Pipe(**options)
    augment = Augmentation(pipe, torch.ones([]), seed=0)
    y = augment.apply(images, transforms_at(percentile, pipe, len(images), case.dtype), case.inputs.get("noise"))
    compare("images_out", y)
    compare("dimages", torch.autograd.grad(y, images, case.inputs["dy"])[0])
