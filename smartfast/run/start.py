"""A run that starts from the weights of another run or of another project (run.init_from)."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smartfast.config.augment import ADA_KIMG, ADA_TRANSFER_KIMG
from smartfast.config.families import DEFAULT_FAMILY
from smartfast.config.schedule import Schedule
from smartfast.config.schema import Config
from smartfast.core.best import named
from smartfast.core.checkpoint import CONVERSION, find_checkpoint, load_tensors
from smartfast.core.files import user_path
from smartfast.errors import UserError
from smartfast.families.base import Family
from smartfast.families.start import (
    AVERAGE,
    ROLES,
    Match,
    StartWeights,
    complete_table,
    initial_p,
    match,
    summary,
    take,
)
from smartfast.run.training import Training

TABLE_FILE = "start.txt"
_EXPECTED = "a run folder, a checkpoint folder, a converted folder or a file of weights"
_PROBABILITY = "augment_p"  # the name of ada's variable, in a checkpoint and of what a conversion found
_TRAINED = "/module/"  # in the names of a checkpoint's tensors, between a network and a tensor of it


def with_transfer_values(config: Config) -> Config:
    """The same configuration with the values that stylegan2-ada-pytorch sets in a transfer, where it is one.

    The average must not ramp up, nor its half-life: it would forget at the first step what it starts from. ada moves
    faster, where augment.kimg is not set.
    """
    is_transfer, augment, optim = config.run.init_from is not None, config.augment, config.optim
    kimg = augment.kimg or (ADA_TRANSFER_KIMG if is_transfer and augment.mode == "ada" else ADA_KIMG)
    ema_kimg = optim.ema_kimg.values[-1] if isinstance(optim.ema_kimg, Schedule) else optim.ema_kimg
    return dataclasses.replace(
        config,
        augment=dataclasses.replace(augment, kimg=kimg),
        optim=dataclasses.replace(optim, ema_rampup=None, ema_kimg=ema_kimg) if is_transfer else optim,
    )


def read_weights(text: str, family: type[Family]) -> StartWeights:
    """What run.init_from names, for a run of `family`.

    Raises:
        UserError: Nothing is there, it is damaged or of another family, or has no weights of the averaged network.
    """
    path = named(user_path(text, "run.init_from"))
    if not path.exists():
        raise UserError(f"run.init_from: {text} does not exist, expected {_EXPECTED}")
    try:
        weights = _read(path, family)
    except UserError as error:
        raise UserError(f"run.init_from: {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"run.init_from: {text}: {reason}, expected {_EXPECTED}") from error
    if weights.family != family.name:
        raise UserError(
            f"run.init_from: {weights.where} is of the family {weights.family}, expected gan.family {family.name}"
        )
    if weights.source_of(AVERAGE, family.averaged) is None:
        found = ", ".join(weights.networks) or "nothing"
        raise UserError(f"run.init_from: {weights.where} holds {found}, expected weights of {family.averaged}")
    return weights


def start_elsewhere(training: Training, say: Callable[[str], None]) -> str | None:
    """Give a run at its start what fits of the weights that run.init_from names; all else stays new.

    Args:
        training: Changed in place.
        say: Receives what became of the weights, in short.

    Returns:
        What became of each tensor, a text for TABLE_FILE; None where run.init_from is not set.

    Raises:
        UserError: As `read_weights`, no parameter of the averaged network fits, or a number is not finite; nothing is
            changed then.
    """
    name, family = training.config.run.init_from, training.family
    if name is None:
        return None
    weights, wanted = read_weights(name, type(family)), _state_dicts(family)
    _check_fit(weights, family, match(weights, wanted, family.averaged))
    matches = take(weights, wanted | {AVERAGE: training.ema.state()}, family.averaged)
    training.moving.accept()
    p = initial_p(weights, matches, family.config.augment)
    if p is not None:
        family.variables[_PROBABILITY].fill_(p)
    say(_said(weights, family, matches))
    say(f"start: every tensor is listed in {TABLE_FILE}; optimizers are new, the average does not ramp up")
    return f"{weights.where}\n\n{complete_table(matches)}\n"


def describe_start(name: str, family: Family) -> str:
    """What a run would start from, in lines; raises as `start_elsewhere`, but for numbers that are not finite."""
    weights = read_weights(name, type(family))
    matches = match(weights, _state_dicts(family), family.averaged)
    _check_fit(weights, family, matches)
    return _said(weights, family, matches)


def _said(weights: StartWeights, family: Family, matches: list[Match]) -> str:
    """What becomes of the weights, and where ada begins."""
    lines, augment = [summary(weights, matches, family.averaged, family.options())], family.config.augment
    if augment.mode == "ada":
        p = initial_p(weights, matches, augment)
        begin = f"{augment.p or 0} (augment.p)" if p is None else f"{p:g}, where it was there,"
        lines.append(f"augmentation: p begins at {begin} and moves by 1 in {augment.kimg or ADA_KIMG:g} kimg")
    return "\n".join(lines)


def _state_dicts(family: Family) -> dict[str, dict[str, Tensor]]:
    return {name: module.state_dict() for name, module in family.modules.items()}


def _check_fit(weights: StartWeights, family: Family, matches: list[Match]) -> None:
    parameters = {name for name, _ in family.modules[family.averaged].named_parameters()}
    if not any(m.outcome == "loaded" and m.network == family.averaged and m.tensor in parameters for m in matches):
        raise UserError(
            f"run.init_from: {weights.where}: no parameter of {family.averaged} has a name and shape of this run's, "
            "expected weights of similar networks"
        )


def _read(path: Path, family: type[Family]) -> StartWeights:
    if path.is_file() and path.suffix == ".safetensors":
        return StartWeights(str(path), *_options(path), {AVERAGE: load_file(path)})
    if (path / "checkpoint.json").is_file() or (path / "checkpoints").is_dir():
        return _of_checkpoint(path)
    files = {network: path / f"{role}.safetensors" for role, network in ROLES.items()}
    there = {network: file for network, file in files.items() if file.is_file()}
    if there:
        family_name, options = _options(there.get(AVERAGE) or next(iter(there.values())))
        networks = {name: load_file(file) for name, file in there.items()}
        return StartWeights(str(path), family_name, options, networks, augment_p=_p_of_conversion(path))
    weights = family.foreign_weights(path)
    if weights is None and path.is_dir():
        find_checkpoint(path)  # says what is missing
    if weights is None:
        raise UserError(f"{path}: no file that gan.family {family.name} starts from, expected {_EXPECTED}")
    return weights


def _of_checkpoint(path: Path) -> StartWeights:
    folder, tensors = load_tensors(path, lambda name: _TRAINED in name or name == _PROBABILITY)
    p = tensors.pop(_PROBABILITY, None)
    networks: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        network, _, own_name = name.partition(_TRAINED)
        networks.setdefault(network, {})[own_name] = tensor
    averaged = folder / "generator_ema.safetensors"
    networks[AVERAGE] = load_file(averaged)
    return StartWeights(str(folder), *_options(averaged), networks, augment_p=None if p is None else float(p))


def _p_of_conversion(folder: Path) -> float | None:
    """What `smartfast convert` found; a folder of weights need not be its work."""
    if not (folder / CONVERSION).is_file():
        return None
    p = json.loads((folder / CONVERSION).read_text()).get(_PROBABILITY)
    return None if p is None else float(p)


def _options(weights: Path) -> tuple[str, dict[str, Any]]:
    """The family, and the arguments of a network, that stand beside its weights."""
    options = json.loads(weights.with_suffix(".json").read_text())
    if not isinstance(options, dict):
        raise ValueError(f"{weights.with_suffix('.json').name} holds no arguments of a network")
    return options.pop("family", DEFAULT_FAMILY), options
