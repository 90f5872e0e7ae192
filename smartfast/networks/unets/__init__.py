"""The UNets of published diffusion models, to train and as frozen scorers: torch modules, and nothing else."""

from torch import nn

from smartfast.networks.unets.adm import ADM, reorder_attention
from smartfast.networks.unets.denoiser import Denoiser
from smartfast.networks.unets.edm import DhariwalUNet, SongUNet
from smartfast.networks.unets.edm2 import EDM2
from smartfast.networks.unets.layers import prepare, set_dropout
from smartfast.networks.unets.options import (
    NCSNPP,
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    NetworkOptions,
    SongOptions,
    options_from_json,
    options_to_json,
)
from smartfast.networks.unets.originals import (
    adm_options,
    adm_schedule_name,
    edm2_options,
    edm_options,
    published_adm,
)
from smartfast.networks.unets.published import ADM_NETWORKS, EDM2_NETWORKS, EDM_NETWORKS, PUBLISHED

NETWORKS: dict[type, type[nn.Module]] = {
    ADMOptions: ADM,
    SongOptions: SongUNet,
    DhariwalOptions: DhariwalUNet,
    EDMOptions: Denoiser,
    EDM2Options: EDM2,
}


def build_network(options: NetworkOptions) -> nn.Module:
    """The network that the options describe, with the random weights that the original begins its training with."""
    return NETWORKS[type(options)](options)


__all__ = [
    "ADM",
    "ADM_NETWORKS",
    "EDM2",
    "EDM2_NETWORKS",
    "EDM_NETWORKS",
    "NCSNPP",
    "PUBLISHED",
    "ADMOptions",
    "Denoiser",
    "DhariwalOptions",
    "DhariwalUNet",
    "EDM2Options",
    "EDMOptions",
    "NetworkOptions",
    "SongOptions",
    "SongUNet",
    "adm_options",
    "adm_schedule_name",
    "build_network",
    "edm2_options",
    "edm_options",
    "options_from_json",
    "options_to_json",
    "prepare",
    "published_adm",
    "reorder_attention",
    "set_dropout",
]
