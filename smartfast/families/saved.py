"""What draws images, from the files of a run, whatever its family, or from those of a published model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smartfast.config.families import DEFAULT_FAMILY
from smartfast.core.checkpoint import find_weights
from smartfast.core.draws import are_vectors
from smartfast.core.tensors import check_weights, weight_shapes, without_memory
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.consistency.network import is_pipeline, load_pipeline
from smartfast.families.consistency.sampler import ConsistencySampler
from smartfast.families.sampling import Sampler
from smartfast.families.scorer_sampler import ScorerSampler
from smartfast.scorers import load_scorer

SCORER_PREFIX = "scorer:"
_FEW_VECTORS = 16


def some_vectors(labels: Tensor | None) -> list[list[float]] | None:
    """What a checkpoint says of label vectors [M, F]: a few, evenly spaced; None for other labels."""
    if labels is None or not are_vectors(labels):
        return None
    count = min(len(labels), _FEW_VECTORS)
    return labels[torch.arange(count) * len(labels) // count].tolist()


def saved_kimg(path: str | Path) -> float | None:
    """Thousands of images that a checkpoint has seen, None where nobody says; path and errors as `open_sampler`."""
    if str(path).startswith(SCORER_PREFIX) or is_pipeline(Path(path)):
        return None
    index = find_weights(Path(path)).with_name("checkpoint.json")
    return json.loads(index.read_text())["kimg"] if index.is_file() else None


def saved_class_names(path: str | Path) -> list[str]:
    """What the data of a checkpoint called class 0, 1, ..., empty if unknown; path and errors as `open_sampler`."""
    if str(path).startswith(SCORER_PREFIX) or is_pipeline(Path(path)):
        return []
    return _of_dataset(find_weights(Path(path)), "class_names") or []


def _of_dataset(weights: Path, key: str) -> Any:
    """What the checkpoint of `weights` says of its data; None where it does not."""
    try:
        return json.loads(weights.with_name("checkpoint.json").read_text())["dataset"][key]
    except (OSError, ValueError, KeyError, TypeError):  # older, or weights on their own
        return None


def _saved_vectors(weights: Path, num_classes: int) -> Tensor | None:
    try:
        vectors = torch.tensor(_of_dataset(weights, "label_vectors"), dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError):
        return None
    return vectors if len(vectors) and vectors.shape[1:] == (num_classes,) else None


def published_sampler(path: str | Path, device: torch.device | str = "cpu") -> Sampler | None:
    """What draws images from a folder of diffusers' ConsistencyModelPipeline, or, after `scorer:`, from what
    smart.scorer takes; None where `path` is neither.

    Raises:
        UserError: It is damaged, or there is no such scorer.
    """
    name = str(path)
    if name.startswith(SCORER_PREFIX):
        return ScorerSampler(load_scorer(name.removeprefix(SCORER_PREFIX), device=device))
    if is_pipeline(Path(path)):
        return ConsistencySampler(load_pipeline(Path(path)).eval().requires_grad_(False).to(device))
    return None


def open_sampler(path: str | Path, device: torch.device | str = "cpu") -> Sampler:
    """What draws images from a run folder (its newest checkpoint), a checkpoint folder or a .safetensors file, or from
    what `published_sampler` takes.

    Where it was trained with label vectors, its `data_labels` are a few of them.

    Raises:
        UserError: Nothing is there, or it is damaged.
    """
    if (published := published_sampler(path, device)) is not None:
        return published
    weights = find_weights(Path(path))
    options_file = weights.with_suffix(".json")
    try:
        options = json.loads(options_file.read_text())
        name = options.pop("family", DEFAULT_FAMILY)
        if name not in FAMILIES:
            raise ValueError(f"family is {name}, expected one of {', '.join(FAMILIES)}")
        family = FAMILIES[name]
        without_memory(lambda: family.build(**options), weight_shapes(weights))
        module, tensors = family.build(**options), load_file(weights)
        check_weights(tensors)
        module.load_state_dict(tensors)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{weights}: expected a generator with {options_file.name} beside it, found: {reason}"
        ) from error
    sampler = family.sampler(module.eval().requires_grad_(False).to(device))
    vectors = _saved_vectors(weights, sampler.num_classes)
    return sampler if vectors is None else sampler.of_data(vectors.to(device), seed=sampler.seed)
