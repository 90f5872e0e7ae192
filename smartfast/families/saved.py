"""An averaged network from the files of a run, whatever its family."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from smartfast.config.families import DEFAULT_FAMILY
from smartfast.core.checkpoint import find_weights
from smartfast.core.tensors import check_weights, weight_shapes, without_memory
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.sampling import Sampler


def saved_class_names(path: str | Path) -> list[str]:
    """What the data of a checkpoint called class 0, 1, ..., empty if unknown; path and errors as `open_sampler`."""
    index = find_weights(Path(path)).with_name("checkpoint.json")
    try:
        return json.loads(index.read_text())["dataset"]["class_names"] or []
    except (OSError, ValueError, KeyError, TypeError):  # older, or weights on their own
        return []


def open_sampler(path: str | Path, device: torch.device | str = "cpu") -> Sampler:
    """What draws images from a run folder (its newest checkpoint), a checkpoint folder or a .safetensors file.

    Raises:
        UserError: Nothing is there, or it is damaged.
    """
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
    return family.sampler(module.eval().requires_grad_(False).to(device))
