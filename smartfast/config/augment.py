"""Augmentation of what the discriminator sees."""

from dataclasses import dataclass
from typing import Literal

from smartfast.config.ranges import Count, Fraction, Kimg, Target, Weight
from smartfast.config.schedule import Schedule

ADA_KIMG, ADA_TRANSFER_KIMG = 500.0, 100.0
"""stylegan2-ada-pytorch's augment.kimg, of a new training and of one that starts from other weights."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of all images that the discriminator sees, against overfitting of few data."""

    mode: Literal["off", "fixed", "ada"] = "off"
    """No augmentation, one with the constant probability augment.p, or with one that follows how certain the
    discriminator is (ADA, arXiv 2006.06676). Default: ours; ADA's is ada. (stylegan2-ada: --aug)"""
    pipe: Literal[
        "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc", "r3gan", "diff"
    ] = "bgc"
    """Transforms, each drawn with the probability: blit (flips, quarter turns, shifts of whole pixels), geom, color,
    filter, noise, cutout, several by their letters, R3GAN's (bgc with colour half as often, and cutout), or
    DiffAugment's three (arXiv 2006.10738). Default: ADA. (stylegan2-ada: --augpipe)"""
    p: Fraction | Schedule | None = None
    """Probability where it is fixed, a number or a schedule, or the number from which ada begins. Unset: 1 for a fixed
    diff; with run.init_from where ada was in the training of that discriminator; else 0.
    (stylegan2-ada: --p)"""
    target: Target = 0.6
    """ada raises p where the mean sign of the logits of real images is above this, else lowers it. Default: ADA.
    (stylegan2-ada: --target)"""
    kimg: Kimg | None = None
    """Thousands of images in which ada moves p by 1 at most. Unset: 500, with run.init_from 100. Default: ADA."""
    interval: Count = 4
    """Discriminator steps between two moves of p. Default: ADA."""
    max_p: Weight = 0.8
    """p goes no higher: what is drawn nearly always shows in the samples. Default: ours; ADA has no bound."""
