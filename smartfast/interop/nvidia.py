"""StyleGAN2 of stylegan2-ada-pytorch and of stylegan3's repository, from the records of their modules.

Names are ours already. What shapes do not tell stands in attributes of the modules: the arguments of the constructor
leave out defaults, which differ between the two projects.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from smartfast.interop.project import Project
from smartfast.interop.recognise import Network
from smartfast.interop.records import Record
from smartfast.interop.stylegan2 import discriminator_options, generator_options


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Generator`, and its tensors, see `Reader`."""
    modules = _modules(network)
    options = generator_options(network.tensors) | _layer_options(modules)
    return options | _mapping_options(modules), network.tensors


def discriminator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Discriminator`, and its tensors, see `Reader`."""
    modules = _modules(network)
    options = discriminator_options(network.tensors) | _layer_options(modules)
    end = _common("activation", [modules["b4.conv"], modules["b4.fc"]])
    if end != options.get("act", "lrelu"):
        options["epilogue_act"] = end
    if "b4.mbstd" in modules:
        options["mbstd_group"] = modules["b4.mbstd"].state["group_size"]
    return options | (_mapping_options(modules) if options["c_dim"] else {}), network.tensors


def _modules(network: Network) -> dict[str, Record]:
    """The modules by name. Those of a state dict alone, which has none, cannot be told."""
    if network.record is None:
        raise ValueError("tensors alone do not tell activations, gains and clamps, expected a pickle of modules")
    return dict(_walk(network.record, ""))


def _walk(module: Record, prefix: str) -> Iterator[tuple[str, Record]]:
    parts = module.state.get("_modules")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if isinstance(part, Record):
            yield f"{prefix}{name}", part
            yield from _walk(part, f"{prefix}{name}.")


def _layer_options(modules: dict[str, Record]) -> dict[str, Any]:
    """Of the blocks' convolutions."""
    layers = [module for name, module in modules.items() if name.endswith((".conv0", ".conv1"))]
    act = _common("activation", layers)
    return {"conv_clamp": _common("conv_clamp", layers)} | ({} if act == "lrelu" else {"act": act})


def _mapping_options(modules: dict[str, Record]) -> dict[str, Any]:
    layers = [module for name, module in modules.items() if name.startswith("mapping.fc")]
    if not layers:
        return {}
    act = _common("activation", layers)
    # A bias has the learning rate's multiplier for its gain.
    options = {"mapping_lr_multiplier": _common("bias_gain", layers)}
    return options | ({} if act == "lrelu" else {"mapping_act": act})


def _common(attribute: str, modules: list[Record]) -> Any:
    """What an attribute is in all of the modules."""
    values = [module.state[attribute] for module in modules]
    if any(value != values[0] for value in values):
        raise ValueError(f"{attribute} differs between layers")
    return values[0]


PROJECT = Project(
    "stylegan2-ada-pytorch or stylegan3",
    {"G": "generator", "D": "discriminator", "G_ema": "generator_ema"},
    {"stylegan2 generator": generator, "stylegan2 discriminator": discriminator},
)
