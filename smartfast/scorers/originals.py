"""Scorers from the tensors, and constructor arguments if any, that a file of the original projects holds."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from smartfast.core.tensors import check_weights, without_memory
from smartfast.errors import UserError
from smartfast.networks.unets import (
    EDMOptions,
    NetworkOptions,
    adm_options,
    adm_schedule_name,
    build_network,
    edm2_options,
    edm_options,
)
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.edm import EDMScorer
from smartfast.scorers.schedule import NoiseSchedule

ADM_SCHEDULES = ("linear", "cosine")
EDM2_CLASS = "Precond"
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def scorer_of_adm(
    tensors: Mapping[str, Tensor], *, where: str, known: Mapping[str, Any] | None = None, **options: Any
) -> ADMScorer | EDMScorer:
    """ADM's UNet of guided-diffusion, or consistency_models' EDM, which has 2-D convolutions in attention.

    Args:
        tensors: The file's, by name.
        where: The file, for messages; by its name alone distilled consistency models are told from EDM.
        known: What tensors do not tell, where it is not that of the published network with these tensors: image_size,
            num_heads or num_head_channels, use_new_attention_order and, of guided-diffusion, schedule.
        options: See `PreparedScorer`.

    Raises:
        UserError: Tensors of another network, something unknown that is needed, or a consistency model.
    """
    known = dict(known or {})
    schedule = known.pop("schedule", None)
    try:
        network_options = adm_options({name: tuple(tensor.shape) for name, tensor in tensors.items()}, **known)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: {error}") from error
    if network_options.attention_dims == 2:
        if PurePath(where).name.startswith(("cd_", "ct_")):
            raise UserError(f"{where}: a consistency model by its name, expected a diffusion model (edm_*.pt)")
        network = _filled(EDMOptions(network_options, "cm"), tensors, where, prefix="model.")
        return EDMScorer(network, where=where, **options)
    schedule = schedule or adm_schedule_name(network_options)
    if schedule not in ADM_SCHEDULES:
        raise UserError(f"{where}: schedule is {schedule}, expected {' or '.join(ADM_SCHEDULES)}: tensors do not tell")
    return ADMScorer(_filled(network_options, tensors, where), adm_schedule(schedule), where=where, **options)


def scorer_of_edm(
    class_name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    schedule: NoiseSchedule | None = None,
    **options: Any,
) -> EDMScorer:
    """The denoiser of an EDM or EDM2 pickle.

    Args:
        class_name, arguments: Of the network's record: its class and its constructor's keyword arguments.
        tensors: The network's, by name.
        where: The file, for messages.
        schedule: See `EDMScorer`.
        options: See `PreparedScorer`.

    Raises:
        UserError: Another class, unknown arguments, or tensors that are not of that network.
    """
    try:
        is_edm2 = class_name == EDM2_CLASS
        network_options = edm2_options(arguments) if is_edm2 else edm_options(class_name, arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return EDMScorer(_filled(network_options, tensors, where), schedule, where=where, **options)


def _filled(options: NetworkOptions, tensors: Mapping[str, Tensor], where: str, prefix: str = "") -> Any:
    """The network with copies of the tensors, in float32, whose names lack `prefix`."""
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        network = without_memory(lambda: build_network(options), shapes)
        check_weights(tensors)
    except ValueError as error:
        reason = str(error).removeprefix(prefix)
        raise UserError(f"{where}: {reason} in a network of the kind {options.network}") from error
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
    network.load_state_dict(copies, assign=True)
    return network
