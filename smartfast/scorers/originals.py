"""Scorers from the tensors, and constructor arguments if any, that a file of the original projects holds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Literal

import torch
from torch import Tensor

from smartfast.core.tensors import check_weights, without_memory
from smartfast.errors import UserError
from smartfast.networks.unets import (
    ADMOptions,
    EDM2Options,
    EDMOptions,
    NetworkOptions,
    adm_options,
    adm_schedule_name,
    build_network,
    edm2_options,
    edm_options,
    published_adm,
)
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.edm import EDMScorer, log_uniform_schedule
from smartfast.scorers.schedule import edm_schedule, shifted
from smartfast.scorers.settings import USUAL, Settings

ADM_SCHEDULES = ("linear", "cosine")
EDM_SCHEDULES = {"edm": edm_schedule, "log_uniform": log_uniform_schedule}
ORDERS = ("legacy", "new")
EDM2_CLASS = "Precond"


def scorer_of_adm(
    tensors: Mapping[str, Tensor], *, where: str, settings: Settings | None = None, **options: Any
) -> ADMScorer | EDMScorer:
    """ADM's UNet of guided-diffusion, or consistency_models' EDM, which has 2-D convolutions in attention.

    Args:
        tensors: The file's, by name.
        where: The file, for messages; by its name alone distilled consistency models are told from EDM.
        settings: What tensors do not tell comes from them, or else from the published network with these tensors.
        options: See `PreparedScorer`.

    Raises:
        UserError: Tensors of another network, something unknown that is needed, or a consistency model.
    """
    settings = settings or Settings(where=where)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    is_edm = any(name.endswith(".qkv.weight") and len(shape) == 4 for name, shape in shapes.items())
    if is_edm and PurePath(where.rpartition(":")[2]).name.startswith(("cd_", "ct_")):
        raise UserError(f"{where}: a consistency model by its name, expected a diffusion model (edm_*.pt)")
    try:
        name, twin = published_adm(shapes) or ("", None)
        known = known_of_adm(settings, twin, f"published {name}")
        if not is_edm:
            schedule = twin and adm_schedule_name(twin)
            known["schedule"] = settings.take("schedule", schedule, f"published {name}", among=ADM_SCHEDULES)
        if unknown := [f"smart.scorer_options.{option}" for option, value in known.items() if value is None]:
            raise UserError(f"{where}: its tensors are of no published network, expected {', '.join(unknown)}")
        network_options = adm_options(shapes, **arguments_of_adm(known))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: {error}") from error
    if is_edm:
        denoiser = EDMOptions(network_options, "cm")
        return edm_scorer(denoiser, tensors, settings, source=USUAL, where=where, prefix="model.", **options)
    return adm_scorer(network_options, tensors, settings, schedule=known["schedule"], where=where, **options)


def scorer_of_edm(
    class_name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    settings: Settings | None = None,
    **options: Any,
) -> EDMScorer:
    """The denoiser of an EDM or EDM2 pickle.

    Args:
        class_name, arguments: Of the network's record: its class and its constructor's keyword arguments.
        tensors: The network's, by name.
        where: The file, for messages.
        settings: What counts more than what the file says, and which noise levels t stands for.
        options: See `PreparedScorer`.

    Raises:
        UserError: Another class, unknown arguments, or tensors that are not of that network.
    """
    try:
        is_edm2 = class_name == EDM2_CLASS
        network_options = edm2_options(arguments) if is_edm2 else edm_options(class_name, arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return edm_scorer(
        network_options, tensors, settings or Settings(where=where), source="the file", where=where, **options
    )


def known_of_adm(settings: Settings, otherwise: ADMOptions | None, source: str) -> dict[str, Any]:
    """What the tensors of ADM's network do not tell, by the names of `ScorerOptions`; None = unknown.

    otherwise, source: What counts where the user says nothing, and whose it is.
    """
    given = settings.given
    is_counted = given.heads is not None or (
        given.head_channels is None and otherwise is not None and otherwise.num_head_channels is None
    )
    heads = "heads" if is_counted else "head_channels"
    found = {
        "image_size": otherwise and otherwise.image_size,
        heads: otherwise and getattr(otherwise, f"num_{heads}"),
        "attention_order": otherwise and ORDERS[otherwise.use_new_attention_order],
    }
    return {option: settings.take(option, value, source) for option, value in found.items()}


def arguments_of_adm(known: Mapping[str, Any]) -> dict[str, Any]:
    """The same, by the names of `ADMOptions`."""
    return dict(
        image_size=known["image_size"],
        num_heads=known.get("heads", ADMOptions.num_heads),
        num_head_channels=known.get("head_channels"),
        use_new_attention_order=known["attention_order"] == "new",
    )


def adm_scorer(
    network_options: ADMOptions,
    tensors: Mapping[str, Tensor],
    settings: Settings,
    *,
    schedule: Literal["linear", "cosine"],
    num_timesteps: int = 1000,
    source: str = USUAL,
    where: str,
    **options: Any,
) -> ADMScorer:
    """ADM's network with its tensors; num_timesteps is from `source`, and counts unless the user says otherwise."""
    noise = adm_schedule(schedule, settings.take("steps", num_timesteps, source))
    noise = shifted(noise, settings.take("timestep_shift", 0, USUAL))
    return ADMScorer(network_of(network_options, tensors, where), noise, where=where, **options)


def edm_scorer(
    network_options: EDMOptions | EDM2Options,
    tensors: Mapping[str, Tensor],
    settings: Settings,
    *,
    source: str,
    where: str,
    prefix: str = "",
    **options: Any,
) -> EDMScorer:
    """A denoiser of EDM or EDM2 with its tensors, whose names lack `prefix`; its options are from `source`."""
    own = "edm"
    if isinstance(network_options, EDMOptions):
        preconditioning = settings.take("preconditioning", network_options.preconditioning, source)
        network_options = replace(network_options, preconditioning=preconditioning)
        own = "iddpm" if preconditioning == "iddpm" else own
    name = settings.take("schedule", own, USUAL, among=tuple(dict.fromkeys((own, *EDM_SCHEDULES))))
    schedule = None
    if name in EDM_SCHEDULES:
        steps = settings.take("steps", 1000, USUAL)
        low, high = settings.take("sigma_min", 0.002, USUAL), settings.take("sigma_max", 80.0, USUAL)
        if not low < high or steps < 2:
            raise UserError(
                f"smart.scorer_options: sigma_min {low:g}, sigma_max {high:g}, steps {steps}, expected sigma_min below "
                "sigma_max and 2 steps or more"
            )
        schedule = EDM_SCHEDULES[name](steps, sigma_min=low, sigma_max=high)
    return EDMScorer(network_of(network_options, tensors, where, prefix), schedule, where=where, **options)


def network_of(options: NetworkOptions, tensors: Mapping[str, Tensor], where: str, prefix: str = "") -> Any:
    """The network with copies of the tensors, in float32, whose names lack `prefix`.

    Raises:
        UserError: Options of which no network can be built, or tensors of another one.
    """
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        network = without_memory(lambda: build_network(options), shapes)
        check_weights(tensors)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix(prefix)[:200]
        raise UserError(f"{where}: {reason} in a network of the kind {options.network}") from error
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
    network.load_state_dict(copies, assign=True)
    return network
