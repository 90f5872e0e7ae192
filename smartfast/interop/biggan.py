"""BigGAN of ajbrock/BigGAN-PyTorch: a folder with a file for each network and one of settings; names are ours already.

Shapes tell all options but the epsilons of the norms, which state_dict.pth has.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from smartfast.errors import UserError
from smartfast.interop.project import Project
from smartfast.interop.recognise import Network, find_networks
from smartfast.interop.safe_pickle import read_untrusted

GENERATOR, DISCRIMINATOR = "biggan generator", "biggan discriminator"
_ROLES = {"G": "generator", "D": "discriminator", "G_ema": "generator_ema"}
_FILE = re.compile(r"(G_ema|G|D)((?:_.{1,200})?)\.pth")
_G_LAST = {3: (32, 4), 4: (64, 2), 5: (128, 1), 6: (256, 1)}
"""Of a generator by its blocks: pixels of the images, channels of the last block over the width."""
_D_FIRST = {4: (32, 4), 5: (64, 1), 6: (128, 1), 7: (256, 1)}
"""Of a discriminator: pixels of the images, channels of the first block over the width."""
_DEFAULTS: dict[str, object] = {"SN_eps": 1e-8, "BN_eps": 1e-5}
_RELUS = ("relu", "inplace_relu")


def main_file(folder: Path) -> Path | None:
    """The file of a folder that stands for all of it; None where it has no such file."""
    return next((file for name in ("G_ema", "G") if (file := folder / f"{name}.pth").is_file()), None)


def whole(path: Path, found: Network) -> tuple[dict[str, Network], dict[str, object], list[Path], dict[str, str]]:
    """What belongs to the network that was found alone in a file: those in the files beside it, and their settings.

    Returns:
        Networks by the names of `PROJECT.roles`, the content of state_dict.pth, the files, and what of the folder
        cannot be read with the reason.
    """
    match = _FILE.fullmatch(path.name)
    name = match[1] if match else "G" if found.kind == GENERATOR else "D"
    networks, files, unread = {name: found}, [path], {}
    settings: dict[str, object] = {}
    for other, file in _beside(path, match):
        try:
            if other in _ROLES:
                networks[other] = find_networks(file)[""]
            else:
                settings = dict(read_untrusted(file))
            files.append(file)
        except (UserError, KeyError) as error:
            unread[file.name] = str(error).removeprefix(f"{file}: ")
    return networks, settings, files, unread


def _beside(path: Path, match: re.Match[str] | None) -> Iterator[tuple[str, Path]]:
    """Other files of the same moment: `_best0` and the like are in all their names."""
    if match:
        for other in (*_ROLES, "state_dict"):
            file = path.with_name(f"{other}{match[2]}.pth")
            if other != match[1] and file.is_file():
                yield other, file


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `BigGan.build`, and its tensors, see `Reader`."""
    tensors, config = network.tensors, _config(beside)
    blocks = _blocks(tensors)
    resolution, factor = _at(_G_LAST, blocks)
    output, gain = tensors["output_layer.2.weight"], tensors["blocks.0.0.bn1.gain.weight"]
    shared = tensors.get("shared.weight")
    classes, shared_dim = (len(gain), 0) if shared is None else shared.shape
    piece = gain.shape[1] - shared_dim if shared_dim else 0
    return {
        **_options(tensors, config, resolution, output.shape[1], factor, classes),
        "z_dim": tensors["linear.weight"].shape[1] * (blocks + 1 if piece else 1),
        "channels": len(output),
        "attention": [8 << block for block in range(blocks) if f"blocks.{block}.1.gamma" in tensors],
        "shared_dim": shared_dim,
        "hierarchical": piece > 0,
        "norm_eps": _number(config, "BN_eps"),
        "own_norm": "blocks.0.0.bn1.bn.stored_mean" in tensors,
    }, tensors


def discriminator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `BigGan.build_discriminator`, and its tensors, see `Reader`."""
    tensors, config = network.tensors, _config(beside)
    blocks = _blocks(tensors)
    resolution, factor = _at(_D_FIRST, blocks)
    first, second = (tensors[f"blocks.0.0.conv{place}.weight"] for place in (1, 2))
    behind = [16 if resolution == 32 else max(resolution >> block + 1, 4) for block in range(blocks)]
    attention = {behind[block] for block in range(blocks) if f"blocks.{block}.1.gamma" in tensors}
    return {
        **_options(tensors, config, resolution, len(second), factor, len(tensors["embed.weight"])),
        "channels": first.shape[1],
        "attention": sorted(attention),
        "wide": len(first) == len(second),
    }, tensors


def _options(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], resolution: int, channels: int, factor: int, count: int
) -> dict[str, Any]:
    """What both have; channels: `factor` times the width. count: Of classes."""
    width = channels // factor
    if not width or not count:
        raise ValueError(f"{channels} feature maps and {count} classes, expected at least {factor} and 1")
    vectors = sum(re.fullmatch(r"linear\.u\d", name) is not None for name in tensors)
    shape = dict(resolution=resolution, width=width, classes=count)
    return shape | dict(spectral_vectors=vectors, spectral_eps=_number(config, "SN_eps"))


def _blocks(tensors: Mapping[str, Tensor]) -> int:
    return sum(re.fullmatch(r"blocks\.\d\.0\.conv1\.weight", name) is not None for name in tensors)


def _at(table: Mapping[int, tuple[int, int]], blocks: int) -> tuple[int, int]:
    if blocks not in table:
        raise ValueError(f"{blocks} blocks, expected one of {', '.join(map(str, table))}: images of 32 to 256 pixels")
    return table[blocks]


def _config(beside: Mapping[str, object]) -> Mapping[str, object]:
    """The settings of the training; raises ValueError for networks that ours are not."""
    config = beside.get("config")
    if not isinstance(config, dict):
        return {}
    for name in ("G_nl", "D_nl"):
        if config.get(name, "relu") not in _RELUS:
            raise ValueError(f"{name} is {str(config[name])[:60]}, expected one of {', '.join(_RELUS)}")
    return config


def _number(config: Mapping[str, object], name: str) -> float:
    value = config.get(name, _DEFAULTS[name])
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{name} is {str(value)[:60]}, expected a number between 0 and 1")
    return float(value)


def _notes(content: Mapping[str, object]) -> list[str]:
    notes = ["samples are normalised with the running statistics in the files"]
    if "config" not in content:
        known = " and ".join(f"{name} {value}" for name, value in _DEFAULTS.items())
        notes.append(f"without state_dict.pth the epsilons of norms are its project's defaults, {known}")
    if isinstance(content.get("itr"), int):
        notes.append(f"trained for {content['itr']} iterations")
    return notes


PROJECT = Project(
    "ajbrock/BigGAN-PyTorch",
    _ROLES,
    {GENERATOR: generator, DISCRIMINATOR: discriminator},
    ("config", "itr"),
    _notes,
    family="biggan",
)
