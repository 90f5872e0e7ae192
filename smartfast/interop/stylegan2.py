"""StyleGAN2's networks as this package builds them: what shapes tell of their options.

Tensors are named as in `smartfast.networks.stylegan2`, which are stylegan2-ada-pytorch's names.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DEFAULT_FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu")
_FILTERED = re.compile(r"(synthesis\.|)(b\d+)\.(conv\d?|skip|fromrgb)\.weight")
_BLOCK = re.compile(r"(?:synthesis\.)?b(\d{1,6})\.conv1?\.weight")


def generator_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `Generator` that names and shapes tell: all but activations, gains and clamps.

    Raises:
        ValueError, KeyError: Tensors of another network.
    """
    widths = {res: len(tensors[f"synthesis.b{res}.conv1.weight"]) for res in _resolutions(tensors)}
    w_dim = tensors["synthesis.b4.conv1.affine.weight"].shape[1]
    mapping = _mapping_options(tensors, w_dim)
    if not mapping["mapping_layers"]:
        raise ValueError("a mapping network without layers")
    embedded = mapping.get("embed_features", w_dim) if mapping["c_dim"] else 0
    last = max(widths)
    architecture = "skip" if "synthesis.b4.torgb.weight" in tensors else "orig"
    return (
        mapping
        | _width_options(widths)
        | _filter_options(tensors["synthesis.b4.resample_filter"])
        | dict(
            z_dim=tensors["mapping.fc0.weight"].shape[1] - embedded,
            w_dim=w_dim,
            resolution=last,
            channels=len(tensors[f"synthesis.b{last}.torgb.weight"]),
            architecture="resnet" if f"synthesis.b{last}.skip.weight" in tensors else architecture,
            use_noise="synthesis.b4.conv1.noise_strength" in tensors,
        )
    )


def discriminator_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `Discriminator` that names and shapes tell: all but the group size, activations, gains and clamps.

    Raises:
        ValueError, KeyError: Tensors of another network.
    """
    widths = {res: len(tensors[f"b{res}.conv{'0' if res > 4 else ''}.weight"]) for res in _resolutions(tensors)}
    last, features = max(widths), widths[4]
    outputs = len(tensors["b4.out.weight"])
    architecture = "skip" if "b4.fromrgb.weight" in tensors else "orig"
    mapping = _mapping_options(tensors, outputs) if "mapping.embed.weight" in tensors else {"c_dim": 0}
    if mapping["c_dim"] and outputs != features:
        mapping["cmap_dim"] = outputs
    return (
        mapping
        | _width_options(widths)
        | _filter_options(tensors[f"b{last}.resample_filter"])
        | dict(
            resolution=last,
            channels=tensors[f"b{last}.fromrgb.weight"].shape[1],
            architecture="resnet" if f"b{last}.skip.weight" in tensors else architecture,
            mbstd_channels=tensors["b4.conv.weight"].shape[1] - features,
        )
    )


def with_filters(tensors: Mapping[str, Tensor], taps: Tensor) -> dict[str, Tensor]:
    """`tensors` and the filters of every block and convolution, also of those that do not resample.

    taps: Of those that do, float32 [k, k] with a sum of 1; the others have the usual one.
    """
    usual = torch.outer(DEFAULT_FILTER, DEFAULT_FILTER) / DEFAULT_FILTER.sum() ** 2
    filters = {}
    for name in tensors:
        if match := _FILTERED.fullmatch(name):
            is_used = match[3] in ("skip", "conv0" if match[1] else "conv1")
            filters[f"{name.removesuffix('weight')}resample_filter"] = taps if is_used else usual
            if match[2] != "b4" or match[1]:  # the end of a discriminator resamples nothing
                filters[f"{match[1]}{match[2]}.resample_filter"] = taps
    return {**tensors, **filters}


def _resolutions(tensors: Mapping[str, Tensor]) -> list[int]:
    found = sorted(int(match[1]) for name in tensors if (match := _BLOCK.fullmatch(name)))
    if not found or found != [4 << level for level in range(min(len(found), 20))]:
        raise ValueError(f"blocks have {', '.join(map(str, found[:12])) or 'no'} pixels, expected 4, 8, 16, ...")
    return found


def _width_options(widths: Mapping[int, int]) -> dict[str, int]:
    """The least channel_base and channel_max that give these feature maps at these resolutions."""
    base, most = max(res * width for res, width in widths.items()), max(widths.values())
    for res, width in widths.items():
        if min(base // res, most) != width:
            raise ValueError(f"{width} feature maps at {res} pixels, expected min({base} // {res}, {most})")
    return {"channel_base": base, "channel_max": most}


def _mapping_options(tensors: Mapping[str, Tensor], w_dim: int) -> dict[str, Any]:
    """w_dim: Outputs. A discriminator's may have no layers: it projects onto the normalised embedding itself."""
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors)
    options: dict[str, Any] = dict(mapping_layers=layers, c_dim=0)
    if "mapping.embed.weight" in tensors:
        embedded, options["c_dim"] = tensors["mapping.embed.weight"].shape
        if not layers and embedded != w_dim:
            raise ValueError(f"an embedding of {embedded} numbers and no layers behind it, expected {w_dim} numbers")
        options |= {} if embedded == w_dim else {"embed_features": embedded}
    hidden = len(tensors["mapping.fc0.weight"]) if layers > 1 else w_dim
    return options | ({} if hidden == w_dim else {"layer_features": hidden})


def _filter_options(taps: Tensor) -> dict[str, Any]:
    """Nothing for the usual filter."""
    rows = taps if taps.dim() == 1 else taps.sum(dim=1)
    if not torch.allclose(taps, rows if taps.dim() == 1 else torch.outer(rows, rows), atol=1e-6):
        raise ValueError("the resampling filter is not one of rows and columns alike")
    usual = DEFAULT_FILTER / DEFAULT_FILTER.sum()
    return (
        {}
        if taps.dim() == 2 and rows.shape == usual.shape and torch.allclose(rows, usual, atol=1e-6)
        else {"resample_filter": [float(tap) for tap in rows]}
    )
