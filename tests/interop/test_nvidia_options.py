"""Every option of StyleGAN2 is told by records of modules such as NVIDIA's pickles hold, for drawn sets of them."""

import random
from typing import Any

import pytest
import torch
from torch import nn

from smartfast.interop import Network, Record, nvidia
from smartfast.networks.stylegan2 import Discriminator, Generator

CASES = 12


def record_of(module: nn.Module) -> Record:
    """The module as NVIDIA's would be stored, with their names of attributes."""
    state: dict[str, Any] = {"_parameters": dict(module.named_parameters(recurse=False)), "_buffers": {}}
    state["_modules"] = {name: record_of(part) for name, part in module.named_children()}
    state |= {name: getattr(module, name) for name in ("conv_clamp", "bias_gain") if hasattr(module, name)}
    if hasattr(module, "act"):
        state["activation"] = module.act
    if getattr(module, "mbstd_channels", 0) and hasattr(module, "fc"):
        state["_modules"]["mbstd"] = Record("MinibatchStdLayer", {"group_size": module.mbstd_group})
    return Record(type(module).__name__, state)


def drawn(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of both networks, and of the generator and of the discriminator alone."""
    choose = random.Random(number).choice
    both = dict(
        c_dim=choose([0, 3]),
        resolution=choose([8, 16]),
        channels=choose([1, 3]),
        architecture=choose(["skip", "resnet", "orig"]),
        channel_base=choose([32, 96]),
        channel_max=choose([4, 16]),
        mapping_layers=choose([1, 2, 3]),
        embed_features=choose([None, 5]),
        layer_features=choose([None, 7]),
        mapping_act=choose(["lrelu", "relu"]),
        mapping_lr_multiplier=choose([0.01, 0.5]),
        act=choose(["lrelu", "swish"]),
        resample_filter=choose([(1, 3, 3, 1), (1, 2, 1), (1,), (1, 2, 3, 4, 5, 4, 3, 2, 1)]),
        conv_clamp=choose([None, 256, 0.5]),
    )
    g = dict(z_dim=choose([4, 6]), w_dim=choose([4, 6]), use_noise=choose([True, False]))
    d = dict(
        cmap_dim=choose([None, 6]),
        mbstd_group=choose([None, 2]),
        mbstd_channels=choose([0, 1, 2]),
        epilogue_act=choose([None, "relu"]),
    )
    return both | g, both | d


@pytest.mark.parametrize("number", range(CASES))
def test_options(number: int) -> None:
    torch.manual_seed(number)
    for options, kind, reader in zip(
        drawn(number), (Generator, Discriminator), (nvidia.generator, nvidia.discriminator), strict=True
    ):
        module = kind(**options)
        network = Network("", module.state_dict(), {}, record_of(module))
        found, tensors = reader(network, {})
        again = kind(**found)
        again.load_state_dict(tensors)
        inputs = torch.randn(
            4, *((options["z_dim"],) if kind is Generator else (options["channels"],) + (options["resolution"],) * 2)
        )
        c = torch.eye(3)[torch.arange(4) % 3] if options["c_dim"] else None
        with torch.no_grad():
            assert torch.equal(again(inputs, c), module(inputs, c))


def test_labels_that_are_embedded_and_not_mapped() -> None:
    module = Discriminator(c_dim=3, resolution=8, channels=1, channel_base=32, channel_max=4, mapping_layers=0)
    found, _ = nvidia.discriminator(Network("", module.state_dict(), {}, record_of(module)), {})
    again = Discriminator(**found)
    again.load_state_dict(module.state_dict())
    inputs = torch.randn(4, 1, 8, 8), torch.eye(3)[[0, 1, 2, 2]]
    with torch.no_grad():
        assert torch.equal(again(*inputs), module(*inputs))
