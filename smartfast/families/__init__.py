"""What can be trained, by the name that gan.family takes and that files hold."""

from smartfast.families.aurora.family import Aurora
from smartfast.families.base import Family
from smartfast.families.biggan.family import BigGan
from smartfast.families.consistency.family import Consistency
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.families.r3gan.family import R3Gan
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.families.toy.family import Toy
from smartfast.families.vae.family import Vae

FAMILIES: dict[str, type[Family]] = {
    "aurora": Aurora,
    "biggan": BigGan,
    "consistency": Consistency,
    "denoiser": DenoiserFamily,
    "r3gan": R3Gan,
    "stylegan2": StyleGan2,
    "toy": Toy,
    "vae": Vae,
}
