"""StyleGAN2 of rosinality/stylegan2-pytorch: one name for a layer of ours each, all options in shapes or constant."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from smartfast.interop.project import Project
from smartfast.interop.recognise import Network
from smartfast.interop.stylegan2 import discriminator_options, generator_options, with_filters

MAPPING_LR = 0.01
_MEAN_OF = 4096
"""Latents whose mean w its scripts truncate toward, where a file has none."""
_LARGEST = 1024
"""Pixels of its largest network. Without a limit a file of a few bytes could ask for noise that fills the memory."""
_STYLED = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_BLOCK = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.1.weight": "skip.weight",
}
_END = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Generator`, and its tensors, see `Reader`.

    The mean w is the file's latent_avg, else that of 4096 latents drawn here: files of training have none. Noise maps
    are drawn here, too, for a generator from before they were stored; the original's are random as well.
    """
    tensors = {}
    for name, tensor in network.tensors.items():
        if not name.endswith(".kernel"):
            ours = _generator_name(name)
            tensors[ours] = _reshaped(ours, tensor)
    tensors |= _missing_noise(tensors)
    stored = beside.get("latent_avg")
    tensors["mapping.w_avg"] = stored.flatten() if isinstance(stored, Tensor) else _mean_w(tensors)
    tensors = with_filters(tensors, _taps(network.tensors))
    return generator_options(tensors) | {"conv_clamp": None, "mapping_lr_multiplier": MAPPING_LR}, tensors


def discriminator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `Discriminator`, and its tensors, see `Reader`."""
    kept = {name: tensor for name, tensor in network.tensors.items() if not name.endswith(".kernel")}
    blocks = max(int(match[1]) for name in kept if (match := re.match(r"convs\.(\d{1,4})\.", name)))
    tensors = {_discriminator_name(name, blocks): tensor for name, tensor in kept.items()}
    tensors = with_filters(tensors, _taps(network.tensors))
    return discriminator_options(tensors) | {"conv_clamp": None, "mbstd_group": 4}, tensors


def _taps(tensors: Mapping[str, Tensor]) -> Tensor:
    """Its filters of upsampling have a gain of 4, which is elsewhere in ours."""
    taps = next(tensor for name, tensor in tensors.items() if name.endswith(".kernel"))
    return taps / taps.sum()


def _generator_name(name: str) -> str:
    if match := re.fullmatch(r"style\.(\d{1,4})\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d{1,4})", name):
        return f"{_layer(int(match[1]))}.noise_const"
    if name == "input.input":
        return "synthesis.b4.const"
    match = re.fullmatch(r"(conv1|to_rgb1|convs\.(\d{1,4})|to_rgbs\.(\d{1,4}))\.(.+)", name)
    if match is None or match[4] not in _STYLED:
        raise ValueError(f"an unknown tensor {name}")
    if match[1].startswith("to_rgb"):
        return f"synthesis.b{8 << int(match[3]) if match[3] else 4}.torgb.{_STYLED[match[4]]}"
    return f"{_layer(int(match[2]) + 1 if match[2] else 0)}.{_STYLED[match[4]]}"


def _layer(number: int) -> str:
    """The convolution of a generator by its place, 0 the one at 4 pixels."""
    return f"synthesis.b{4 << (number + 1) // 2}.conv{int(number % 2 == 0)}"


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    if name == "synthesis.b4.const" or (name.endswith(".weight") and tensor.dim() == 5):
        return tensor.squeeze(0)
    if name.endswith(".noise_const"):
        return tensor[0, 0]
    if name.endswith(".noise_strength"):
        return tensor.reshape(())
    return tensor.flatten() if name.endswith(".torgb.bias") else tensor


def _discriminator_name(name: str, blocks: int) -> str:
    """blocks: Above 4 pixels."""
    if name in _END:
        return _END[name]
    match = re.fullmatch(r"convs\.(\d{1,4})\.(.+)", name)
    if match and match[1] == "0" and match[2] in ("0.weight", "1.bias"):
        return f"b{4 << blocks}.fromrgb.{match[2][2:]}"
    if match is None or match[2] not in _BLOCK:
        raise ValueError(f"an unknown tensor {name}")
    return f"b{4 << (blocks + 1 - int(match[1]))}.{_BLOCK[match[2]]}"


def _missing_noise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unit normal maps [r, r] of the layers at r pixels that have a strength of noise and no map, by name."""
    drawn = torch.Generator().manual_seed(0)
    found = (re.fullmatch(r"(synthesis\.b(\d+)\.conv[01])\.noise_strength", name) for name in tensors)
    layers = sorted((int(match[2]), match[1]) for match in found if match)
    missing = [(size, f"{layer}.noise_const") for size, layer in layers if f"{layer}.noise_const" not in tensors]
    if missing and missing[-1][0] > _LARGEST:
        raise ValueError(f"noise maps of more than {_LARGEST} pixels are missing")
    return {name: torch.randn(size, size, generator=drawn, device="cpu") for size, name in missing}


def _mean_w(tensors: Mapping[str, Tensor]) -> Tensor:
    """Mean w [w_dim] of the mapping network, in float64."""
    layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in tensors)
    drawn = torch.Generator().manual_seed(0)
    w_dim = tensors["mapping.fc0.weight"].shape[1]
    x = torch.randn(_MEAN_OF, w_dim, generator=drawn, dtype=torch.float64, device="cpu")
    x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    for i in range(layers):
        weight, bias = (tensors[f"mapping.fc{i}.{name}"].double() * MAPPING_LR for name in ("weight", "bias"))
        x = leaky_relu(x @ weight.t() / x.shape[1] ** 0.5 + bias, 0.2) * 2**0.5
    return x.mean(dim=0).float()


def _notes(content: Mapping[str, object]) -> list[str]:
    notes = [] if "latent_avg" in content else [f"the mean w is that of {_MEAN_OF} latents: the file has no latent_avg"]
    if drawn := [name for name in ("g", "g_ema") if _lacks_noise(content.get(name))]:
        notes.append(f"noise maps of {' and '.join(drawn)} are drawn here: the file has not all of them")
    return notes


def _lacks_noise(generator: object) -> bool:
    names = [str(name) for name in generator] if isinstance(generator, dict) else []
    strengths = sum(name.endswith(".noise.weight") for name in names)
    return strengths > sum(name.startswith("noises.") for name in names)


PROJECT = Project(
    "rosinality/stylegan2-pytorch",
    {"g": "generator", "d": "discriminator", "g_ema": "generator_ema"},
    {"rosinality generator": generator, "rosinality discriminator": discriminator},
    ("latent_avg", "ada_aug_p"),
    _notes,
)
