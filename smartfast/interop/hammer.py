"""StyleGAN2 of Hammer, in whose layout SMaRt's weights are published: one name for a layer of ours each.

Attributes of layers are not stored, arguments of the constructor are: those left out have the defaults of
Hammer's models/stylegan2_generator.py and stylegan2_discriminator.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smartfast.interop.project import Project
from smartfast.interop.recognise import Network
from smartfast.interop.stylegan2 import discriminator_options, generator_options, with_filters

_FIXED: dict[str, object] = {
    "init_res": 4,
    "repeat_w": True,
    "normalize_z": True,
    "mapping_use_wscale": True,
    "mapping_wscale_gain": 1,
    "embedding_bias": True,
    "embedding_use_wscale": True,
    "embedding_wscale_gian": 1,
    "embedding_lr_mul": 1,
    "normalize_embedding": True,
    "normalize_embedding_latent": False,
    "final_tanh": False,
    "const_input": True,
    "demodulate": True,
    "use_wscale": True,
    "wscale_gain": 1,
    "lr_mul": 1,
    "eps": 1e-8,
}
"""The only values that the networks here have."""
_IN_TENSORS = (
    "model_type resolution z_dim w_dim image_channels architecture label_dim embedding_dim mapping_layers "
    "mapping_fmaps fmaps_base fmaps_max filter_kernel mbstd_channels noise_type"
).split()


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Generator`, and its tensors, see `Reader`."""
    _check(network.kwargs, ("conv_clamp", "mapping_lr_mul"))
    if network.kwargs.get("noise_type", "spatial") not in ("spatial", "none"):
        raise ValueError(f"noise_type is {network.kwargs['noise_type']}, expected spatial or none")
    renamed = {_generator_name(name): tensor for name, tensor in network.tensors.items()}
    tensors = _filled(renamed)
    tensors["synthesis.b4.const"] = tensors["synthesis.b4.const"].squeeze(0)
    tensors |= {name: noise[0, 0] for name, noise in tensors.items() if name.endswith(".noise_const")}
    options = generator_options(tensors) | {"conv_clamp": network.kwargs.get("conv_clamp")}
    return options | {"mapping_lr_multiplier": network.kwargs.get("mapping_lr_mul", 0.01)}, tensors


def discriminator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Discriminator`, and its tensors, see `Reader`."""
    _check(network.kwargs, ("conv_clamp", "mapping_lr_mul", "mbstd_groups"))
    levels = sum(re.fullmatch(r"layer\d*[02468]\.weight", name) is not None for name in network.tensors)
    tensors = _filled({_discriminator_name(name, levels): tensor for name, tensor in network.tensors.items()})
    options = discriminator_options(tensors) | {"conv_clamp": network.kwargs.get("conv_clamp")}
    if options["c_dim"]:
        options["mapping_lr_multiplier"] = network.kwargs.get("mapping_lr_mul", 0.1)
    if options["mbstd_channels"]:
        options["mbstd_group"] = network.kwargs.get("mbstd_groups", 4)
    return options, tensors


def _check(kwargs: Mapping[str, object], read: tuple[str, ...]) -> None:
    for name, value in kwargs.items():
        if name not in (*_IN_TENSORS, *read) and name not in _FIXED:
            raise ValueError(f"an unknown argument {name}")
        if name in _FIXED and value != _FIXED[name]:
            raise ValueError(f"{name} is {value}, expected {_FIXED[name]}")


def _filled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the filters of some layers, with those of all."""
    taps = next(tensor for name, tensor in tensors.items() if name.endswith("filter"))
    return with_filters({name: tensor for name, tensor in tensors.items() if not name.endswith("filter")}, taps)


def _generator_name(name: str) -> str:
    match = re.fullmatch(r"synthesis\.(layer|output|residual)(\d{1,4})\.(.+)", name)
    if match:
        number, rest = int(match[2]), re.sub(r"^style\b", "affine", match[3])
        level = (number + 1) // 2 if match[1] == "layer" else number
        part = {"output": "torgb", "residual": "skip"}.get(match[1], "conv1" if number % 2 == 0 else "conv0")
        return f"synthesis.b{4 << level}.{part}.{re.sub('^noise$', 'noise_const', rest)}"
    name = re.sub(r"^w_avg$", "mapping.w_avg", name)
    name = re.sub(r"^synthesis\.early_layer\.const$", "synthesis.b4.const", name)
    return re.sub(r"^mapping\.dense(\d{1,4})\.", r"mapping.fc\1.", name).replace("mapping.embedding.", "mapping.embed.")


def _discriminator_name(name: str, levels: int) -> str:
    """levels: Resolutions, from that of the images down to 4 pixels."""
    match = re.fullmatch(r"(input|layer|residual|mapping)(\d{1,4})\.(.+)", name)
    if match is None:
        return re.sub(r"^output\.", "b4.out.", name).replace("embedding.", "mapping.embed.")
    kind, number, rest = match[1], int(match[2]), match[3]
    if kind == "mapping":
        return f"mapping.fc{number}.{rest}"
    level = number // 2 if kind == "layer" else number
    resolution = 4 << (levels - 1 - level)
    layers = ("conv0", "conv1") if resolution > 4 else ("conv", "fc")
    part = {"input": "fromrgb", "residual": "skip"}.get(kind, layers[number % 2])
    return f"b{resolution}.{part}.{rest}"


PROJECT = Project(
    "SMaRt or Hammer",
    {"generator": "generator", "discriminator": "discriminator", "generator_smooth": "generator_ema"},
    {"hammer stylegan2 generator": generator, "hammer stylegan2 discriminator": discriminator},
    ("model_kwargs_init",),
)
