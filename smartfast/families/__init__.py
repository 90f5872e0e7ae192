"""What can be trained, by the name that gan.family takes and that files hold."""

from smartfast.families.base import Family
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.families.stylegan2.family import StyleGan2

FAMILIES: dict[str, type[Family]] = {
    "denoiser": DenoiserFamily,
    "stylegan2": StyleGan2,
}
