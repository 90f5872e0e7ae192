"""Scorers that others publish: where each is, how large, under which licence, and the command that gets it."""

import shlex
from pathlib import Path
from typing import NamedTuple

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
_CM = "https://openaipublic.blob.core.windows.net/consistency/"
_NOT_FOR_SALE = "CC BY-NC-SA 4.0, for non-commercial use"


class PublishedFile(NamedTuple):
    """A file of weights: what it is, its address and its project's page, millions of parameters, the licence."""

    what: str
    url: str
    page: str
    mega_parameters: float
    licence: str

    @property
    def size(self) -> str:
        """That of the weights in float32, in which the files hold them, for people."""
        size_mb = 4 * self.mega_parameters
        return f"{size_mb / 1000:.1f} GB" if size_mb >= 1000 else f"{size_mb:.0f} MB"


def _edm(name: str, what: str, mega_parameters: float) -> PublishedFile:
    return PublishedFile(what, _EDM + name, "https://github.com/NVlabs/edm", mega_parameters, _NOT_FOR_SALE)


def _adm(name: str, what: str, mega_parameters: float) -> PublishedFile:
    return PublishedFile(what, _ADM + name, "https://github.com/openai/guided-diffusion", mega_parameters, "MIT")


def _cm(name: str, what: str, mega_parameters: float) -> PublishedFile:
    return PublishedFile(what, _CM + name, "https://github.com/openai/consistency_models", mega_parameters, "MIT")


PUBLISHED_FILES: dict[str, PublishedFile] = {
    name: make(name, what, mega_parameters)
    for make, name, what, mega_parameters in (
        (_edm, "edm-cifar10-32x32-cond-vp.pkl", "EDM of CIFAR-10 with classes", 55.7),
        (_edm, "edm-cifar10-32x32-uncond-vp.pkl", "EDM of CIFAR-10 without classes", 55.7),
        (_edm, "edm-ffhq-64x64-uncond-vp.pkl", "EDM of FFHQ at 64 pixels", 61.8),
        (_edm, "edm-imagenet-64x64-cond-adm.pkl", "EDM of ImageNet at 64 pixels with classes", 295.9),
        (_adm, "64x64_diffusion.pt", "ADM of ImageNet at 64 pixels with classes", 295.9),
        (_adm, "128x128_diffusion.pt", "ADM of ImageNet at 128 pixels with classes", 421.5),
        (_adm, "lsun_bedroom.pt", "ADM of LSUN Bedroom at 256 pixels", 552.8),
        (_cm, "edm_imagenet64_ema.pt", "EDM of ImageNet at 64 pixels with classes", 295.9),
        (_cm, "edm_bedroom256_ema.pt", "EDM of LSUN Bedroom at 256 pixels", 526.3),
    )
}
"""By file name."""


_BEDROOM = "https://huggingface.co/google/ddpm-bedroom-256"
PUBLISHED_MODELS: dict[str, PublishedFile] = {
    "google/ddpm-bedroom-256": PublishedFile(
        "DDPM of LSUN Bedroom at 256 pixels", _BEDROOM, _BEDROOM, 113.7, "Apache-2.0"
    )
}
"""By hub id; they are downloaded when they are named, where there is internet."""


def how_to_get(name: str) -> str | None:
    """What the published file or model that a scorer's path or hub id names is, and the command that gets it.

    None where it names none of these.
    """
    file = PUBLISHED_MODELS.get(name) or PUBLISHED_FILES.get(Path(name).name)
    if file is None:
        return None
    command = f"curl -L --create-dirs -o {shlex.quote(name)} {file.url}"
    if name in PUBLISHED_MODELS:
        command = f"hf download {name} --local-dir scorers/{Path(name).name}"
    return f"{file.what}, {file.size}, licence {file.licence}, see {file.page}: {command}"
