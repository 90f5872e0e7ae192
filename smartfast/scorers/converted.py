"""A scorer of SmartFast's own networks as a folder: safetensors under the original names, and JSON that says the rest.

scorer.json has `network`, the options that build it (smartfast/networks/unets/options.py), `schedule`, which networks
of EDM leave null, and whatever else is known of the weights, such as where they come from.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.core.files import appear_complete
from smartfast.errors import UserError
from smartfast.networks.unets import ADMOptions, EDM2Options, EDMOptions, options_to_json
from smartfast.networks.unets.options import OPTIONS, options_from_json
from smartfast.scorers.base import Scorer, ScorerFormat
from smartfast.scorers.fields import check_fields, read_json
from smartfast.scorers.originals import ADM_SCHEDULES, adm_scorer, arguments_of_adm, edm_scorer, known_of_adm
from smartfast.scorers.settings import Settings

JSON_FILE, WEIGHTS_FILE = "scorer.json", "scorer.safetensors"
_FIELDS = {"network": dict, "schedule": Literal["linear", "cosine"] | None}
_MOST_CHANNELS, _MOST_BLOCKS, _MOST_LEVELS = 2**16, 100, 16


def save_scorer(
    folder: Path,
    options: ADMOptions | EDMOptions | EDM2Options,
    tensors: Mapping[str, Tensor],
    *,
    schedule: Literal["linear", "cosine"] | None = None,
    dtype: torch.dtype = torch.float32,
    **known: Any,
) -> None:
    """Write a folder that smart.scorer takes; each of its files appears whole.

    Args:
        folder: Made if it is not there.
        options: Of the network.
        tensors: Its state dict.
        schedule: The noise that ADM's networks were trained with, see `adm_schedule`.
        dtype: Of the saved weights; biases, frequencies and noise levels are float32.
        known: What else the JSON is to say, values that JSON can hold.

    Raises:
        OSError, SafetensorError: Something cannot be written.
    """
    content = {"network": options_to_json(options), "schedule": schedule, **known}
    with appear_complete(folder) as partial:
        (partial / JSON_FILE).write_text(json.dumps(content, indent=2) + "\n")
        save_file({name: _saved(tensor, dtype) for name, tensor in tensors.items()}, partial / WEIGHTS_FILE)


def _saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.ndim > 1 else torch.float32).contiguous()


def _is_converted(path: Path) -> bool:
    return (path / JSON_FILE).is_file()


def _load(path: Path, *, where: str, settings: Settings, resolution: int | None = None, **options: Any) -> Scorer:
    """resolution: Not needed, these networks state their own."""
    file = path / JSON_FILE
    content = read_json(file)
    check_fields(content, _FIELDS, str(file))
    network_options = _checked_options(content.get("network"), str(file))
    schedule = content.get("schedule")
    is_adm = isinstance(network_options, ADMOptions)
    if is_adm != (schedule is not None):
        expected = " or ".join(ADM_SCHEDULES) if is_adm else "null"
        raise UserError(f"{file}: schedule is {schedule}, expected {expected} of a network {network_options.network}")
    tensors = _weights(path)
    options |= {"where": where, "source": JSON_FILE}
    if isinstance(network_options, ADMOptions):
        network_options = _read_with(network_options, settings)
        noise = settings.take("schedule", schedule, JSON_FILE, among=ADM_SCHEDULES)
        return adm_scorer(network_options, tensors, settings, schedule=noise, **options)
    if isinstance(network_options, EDMOptions) and isinstance(network_options.model, ADMOptions):
        network_options = dataclasses.replace(network_options, model=_read_with(network_options.model, settings))
    return edm_scorer(network_options, tensors, settings, **options)


def stored_network(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options, as JSON has them, and the state dict of a folder's network.

    Raises:
        UserError: A file cannot be read.
    """
    content = read_json(path / JSON_FILE)
    check_fields(content, _FIELDS, str(path / JSON_FILE))
    return content.get("network") or {}, _weights(path)


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path / WEIGHTS_FILE}: {_line(error)}; expected the weights of {JSON_FILE}") from error


def _read_with(options: ADMOptions, settings: Settings) -> ADMOptions:
    return dataclasses.replace(options, **arguments_of_adm(known_of_adm(settings, options, JSON_FILE)))


FORMAT = ScorerFormat(_is_converted, _load)
"""A folder that `save_scorer` wrote."""


def _checked_options(values: Any, where: str) -> ADMOptions | EDMOptions | EDM2Options:
    _check_types(values, f"{where}: network")
    try:
        options = options_from_json(values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not isinstance(options, ADMOptions | EDMOptions | EDM2Options):
        raise UserError(f"{where}: network is {options.network}, expected adm, edm or edm2, the whole of a denoiser")
    return options


def _check_types(values: Any, where: str) -> None:
    """Types and sizes: what follows builds all blocks, if without values, before it looks at the weights."""
    check_fields(values, {"network": str}, where)
    kind = OPTIONS.get(values.get("network", ""))
    if kind is None:
        return
    hints = get_type_hints(kind)
    check_fields(values, {name: hint for name, hint in hints.items() if name != "model"}, where)
    for field in dataclasses.fields(kind):
        value = values.get(field.name)
        numbers = value if isinstance(value, list) else [value]
        if field.name == "model" or not all(isinstance(number, int | float) for number in numbers):
            continue
        most = _MOST_BLOCKS if "blocks" in field.name else _MOST_CHANNELS
        if field.name == "channel_mult" and value == []:
            raise UserError(f"{where}: channel_mult is [], expected a number for every resolution")
        if len(numbers) > _MOST_LEVELS or not all(0 <= number <= most for number in numbers):
            raise UserError(f"{where}: {field.name} is {str(value)[:60]}, expected numbers from 0 to {most}")
    if "model" in values:
        _check_types(values["model"], f"{where}.model")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
