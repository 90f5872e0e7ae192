"""Which transforms an augmentation draws, how often and how strong."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Pipe:
    """Adaptive discriminator augmentation's transforms (Karras et al., arXiv 2006.06676, table 3 and appendix B).

    The first fifteen are multipliers of the probability p, 0 = not drawn; the others are strengths: `_max` the ends of
    a uniform distribution, `_std` the spread of a normal one (of the logarithm to base 2 where a factor is drawn).
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __or__(self, other: "Pipe") -> "Pipe":
        """The transforms of both, with the strengths of the first."""
        names = [field.name for field in dataclasses.fields(self)[:15]]
        return dataclasses.replace(self, **{name: max(getattr(self, name), getattr(other, name)) for name in names})


_BLIT = Pipe(xflip=1, rotate90=1, xint=1)
_GEOM = Pipe(scale=1, rotate=1, aniso=1, xfrac=1)
_COLOR = Pipe(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
_FILTER, _NOISE, _CUTOUT = Pipe(imgfilter=1), Pipe(noise=1), Pipe(cutout=1)
PIPES: dict[str, Pipe] = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": _FILTER,
    "noise": _NOISE,
    "cutout": _CUTOUT,
    "bg": _BLIT | _GEOM,
    "bgc": _BLIT | _GEOM | _COLOR,
    "bgcf": _BLIT | _GEOM | _COLOR | _FILTER,
    "bgcfn": _BLIT | _GEOM | _COLOR | _FILTER | _NOISE,
    "bgcfnc": _BLIT | _GEOM | _COLOR | _FILTER | _NOISE | _CUTOUT,
    "r3gan": _BLIT | _GEOM | _CUTOUT | Pipe(brightness=0.5, contrast=0.5, lumaflip=0.5, hue=0.5, saturation=0.5),
}
"""By the names of stylegan2-ada's --augpipe, and R3GAN's (Huang et al., arXiv 2501.05441)."""
