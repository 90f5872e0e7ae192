"""Narrow networks of every kind, with random weights none of which is zero."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from smartfast.networks.unets import (
    NCSNPP,
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    NetworkOptions,
    SongOptions,
    build_network,
)

ADM16 = ADMOptions(
    16,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(8,),
    num_classes=4,
    num_head_channels=16,
)
SONG16 = SongOptions(
    16, label_dim=4, augment_dim=9, model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)
)
DHARIWAL16 = DhariwalOptions(
    16, label_dim=4, model_channels=64, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(8,)
)
NARROW: dict[str, NetworkOptions] = {
    "adm": ADM16,
    "adm, convolutions resample": replace(ADM16, resblock_updown=False, use_scale_shift_norm=False),
    "adm, new order": replace(ADM16, use_new_attention_order=True, out_channels=3),
    "cm": EDMOptions(replace(ADM16, out_channels=3, attention_dims=2, use_new_attention_order=True), "cm"),
    "ddpmpp": EDMOptions(SONG16),
    "ncsnpp": EDMOptions(replace(SONG16, **NCSNPP)),
    "song with skips": EDMOptions(replace(SONG16, **(NCSNPP | {"encoder_type": "skip", "decoder_type": "skip"}))),
    "vp": EDMOptions(SONG16, "vp"),
    "ve": EDMOptions(replace(SONG16, **NCSNPP), "ve"),
    "dhariwal": EDMOptions(DHARIWAL16),
    "iddpm": EDMOptions(DHARIWAL16, "iddpm"),
    "edm2": EDM2Options(
        16,
        label_dim=4,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        channels_per_head=16,
    ),
}


class Example(NamedTuple):
    """A network and what it is called with: images [5, 3, 16, 16], noise levels or timesteps [5], classes [5]."""

    network: nn.Module
    inputs: tuple[Tensor, Tensor, Tensor]

    @property
    def images(self) -> Tensor:
        return self.inputs[0]


@pytest.fixture
def narrow() -> Callable[..., Example]:
    """narrow(name, dtype=float32): the network of NARROW with that name, the same at every call."""
    return _narrow


def _narrow(name: str, dtype: torch.dtype = torch.float32) -> Example:
    options = NARROW[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        images = torch.randn(5, 3, 16, 16, dtype=dtype)
        network = build_network(options)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter += 0.5 if parameter.ndim == 0 else 0.2 * torch.randn_like(parameter)
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.5, 20], dtype=dtype)
    level = torch.tensor([10, 30, 100, 400, 800]) if isinstance(options, ADMOptions) else sigma
    return Example(network.to(dtype), (images.requires_grad_(), level, torch.tensor([3, 1, 0, 2, 3])))


@pytest.fixture(params=list(NARROW))
def example(request: pytest.FixtureRequest) -> Example:
    """Every narrow network in turn."""
    return _narrow(request.param)
