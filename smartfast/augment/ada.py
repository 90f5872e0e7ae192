"""Adaptive discriminator augmentation: the transforms in order, and the probability that follows D's certainty."""

import math

import torch
from torch import Tensor

from smartfast.augment import colors, corruptions, geometry
from smartfast.augment.pipes import Pipe
from smartfast.augment.transforms import Transforms, draw_transforms
from smartfast.core.draws import Purpose
from smartfast.kernels import philox_normal


class Augmentation:
    """What stands before the discriminator, for reals and fakes, in every phase.

    Args:
        pipe: The transforms.
        p: Probability, a scalar on the device of the run, which others move.
        seed: Of the run.
    """

    def __init__(self, pipe: Pipe, p: Tensor, *, seed: int) -> None:
        self.pipe, self.p, self.seed = pipe, p, seed
        self.warp_filter = geometry.warp_filter(p.device)
        self.bank = torch.from_numpy(corruptions.filter_bank()).to(p.device, torch.float32)

    def __call__(self, images: Tensor, stream: Tensor, purpose: Purpose) -> Tensor:
        """Augment images [N, C, H, W], a pure function of them, of p, and of their numbers int64 [N].

        purpose: Of the draws: images of equal numbers are augmented alike under one purpose, independently under two.
        """
        transforms = draw_transforms(self.pipe, self.p, self.seed, stream, int(purpose))
        noise = None
        if transforms.noise is not None:
            count = math.prod(images.shape[1:])
            noise = philox_normal(self.seed, stream, count, int(purpose) + Purpose.PIXELS).view(images.shape)
        return self.apply(images, transforms, noise)

    def apply(self, images: Tensor, transforms: Transforms, noise: Tensor | None) -> Tensor:
        """Images after given transforms; noise: Unit normal, of their shape, where the transforms have noise."""
        t = transforms
        if geometry.has_geometry(t):
            images = geometry.warp(images, t, self.warp_filter)
        if colors.has_colors(t):
            images = colors.recolor(images, t)
        if t.bands is not None:
            images = corruptions.filter_bands(images, t.bands, self.bank)
        if t.noise is not None:
            assert noise is not None
            images = images + (noise * t.noise[:, None, None, None]).to(images.dtype)
        if t.hole is not None:
            assert t.centre is not None
            images = corruptions.cut_out(images, t.hole, t.centre)
        return images
