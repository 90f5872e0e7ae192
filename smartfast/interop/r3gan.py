"""R3GAN of brownvc/R3GAN: names are ours already, and shapes tell all options.

Its files hold modules by reference, without arguments of constructors, and states of optimizers.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smartfast.interop.project import Project
from smartfast.interop.recognise import Network

_MAX_STAGES = 20
_USUAL_TAPS = [1.0, 2.0, 1.0]
_BLOCK = re.compile(r"Model\.MainLayers\.(\d{1,4})\.Layers\.(\d{1,4})\.LinearLayer3\.Layer\.weight")


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `R3Gan.build`, and its tensors, see `Reader`."""
    tensors = network.tensors
    options = _stages(tensors, is_reversed=False) | _labels(tensors)
    inputs = tensors["Model.MainLayers.0.Layers.0.LinearLayer.weight"].shape[1]
    options["channels"] = len(tensors["Model.AggregationLayer.Layer.weight"])
    return {"z_dim": inputs - options["embedding"], **options}, tensors


def discriminator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `R3Gan.build_discriminator`, and its tensors, see `Reader`."""
    tensors = network.tensors
    options = _stages(tensors, is_reversed=True) | _labels(tensors)
    options["channels"] = tensors["Model.ExtractionLayer.Layer.weight"].shape[1]
    return options, tensors


def _stages(tensors: Mapping[str, Tensor], *, is_reversed: bool) -> dict[str, Any]:
    """What is told stage by stage, from 4 pixels up; is_reversed: The network has them from the image down."""
    found = sorted((int(match[1]), int(match[2])) for name in tensors if (match := _BLOCK.fullmatch(name)))
    count = 1 + max((stage for stage, _ in found), default=-1)
    first = {stage: layer for stage, layer in reversed(found)}
    if not count or count > _MAX_STAGES or len(first) != count:
        raise ValueError(f"{len(first)} of {count} stages have residual blocks, expected all of 1 to {_MAX_STAGES}")
    order = range(count)[::-1] if is_reversed else range(count)
    names = [f"Model.MainLayers.{stage}.Layers.{first[stage]}" for stage in order]
    last = [tensors[f"{name}.LinearLayer3.Layer.weight"] for name in names]
    inside = [tensors[f"{name}.LinearLayer2.Layer.weight"] for name in names]
    widths = [len(weight) for weight in last]
    if not all([*widths, *(weight.shape[1] for weight in inside)]):
        raise ValueError("a stage without feature maps")
    kernels = [tensor for name, tensor in tensors.items() if name.endswith(".Kernel")]
    return dict(
        widths=widths,
        cardinalities=[len(weight) // weight.shape[1] for weight in inside],
        blocks=[sum(number == stage for number, _ in found) for stage in order],
        expansion=len(inside[0]) // widths[0],
    ) | (_taps(kernels[0]) if kernels else {})


def _labels(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    weight = tensors.get("Model.EmbeddingLayer.weight")
    embedding, classes = (0, 0) if weight is None else weight.shape
    return {"classes": classes, "embedding": embedding}


def _taps(kernel: Tensor) -> dict[str, list[float]]:
    """The filter [k] whose sums of neighbours, in two dimensions, are `kernel` [k + 1, k + 1]; empty for the usual."""
    rows = kernel.double().sum(dim=1)
    taps: list[float] = []
    for value in rows.tolist()[:-1]:
        taps.append(value - (taps[-1] if taps else 0.0))
    again = torch.tensor([a + b for a, b in zip([*taps, 0.0], [0.0, *taps], strict=True)], dtype=torch.float64)
    if kernel.shape != (len(rows), len(rows)) or not torch.allclose(
        torch.outer(again, again), kernel.double(), atol=1e-6
    ):
        raise ValueError("the resampling filter is not one of rows and columns alike with nearest neighbours")
    usual = torch.tensor(_USUAL_TAPS, dtype=torch.float64) / sum(_USUAL_TAPS)
    found = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    return {} if found.shape == usual.shape and torch.allclose(found, usual, atol=1e-6) else {"taps": taps}


def _notes(content: Mapping[str, object]) -> list[str]:
    images = content.get("cur_nimg")
    return [f"trained on {images / 1000:g} kimg"] if isinstance(images, int | float) else []


PROJECT = Project(
    "brownvc/R3GAN",
    {"G": "generator", "D": "discriminator", "G_ema": "generator_ema"},
    {"r3gan generator": generator, "r3gan discriminator": discriminator},
    notes=_notes,
    family="r3gan",
)
