"""Our StyleGAN2 as state dicts for stylegan2-ada-pytorch, with the arguments of its classes, of which none is left out.

A .pt holds {"G_ema": {"kwargs": ..., "state_dict": ...}, ...}, which torch.load(weights_only=True) reads. A
.safetensors has the tensors as `G_ema.<name>`, and in its metadata the arguments under `G_ema` as JSON.
"""

import inspect
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from smartfast.core.checkpoint import find_weights
from smartfast.core.files import appears_complete, write_atomically
from smartfast.errors import UserError
from smartfast.families.imported import module_of
from smartfast.families.saved import open_sampler
from smartfast.families.stylegan2.family import StyleGan2
from smartfast.families.stylegan2.sampler import StyleGan2Sampler
from smartfast.interop import Model
from smartfast.interop.models import ROLES, Role
from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.tools.conversion import Conversion, Read, Source
from smartfast.tools.convert_gan import kind_of

NAMES: dict[Role, str] = {"generator": "G", "discriminator": "D", "generator_ema": "G_ema"}
SUFFIXES = (".pt", ".safetensors")
_MAPPING = {
    "mapping_layers": "num_layers",
    "mapping_lr_multiplier": "lr_multiplier",
    "mapping_act": "activation",
    "embed_features": "embed_features",
    "layer_features": "layer_features",
}
_BLOCKS = {"act": "activation", "resample_filter": "resample_filter"}
_SIZES = {"c_dim": "c_dim", "resolution": "img_resolution", "channels": "img_channels"}
_WIDTHS = {name: name for name in ("architecture", "channel_base", "channel_max", "conv_clamp")}
_IN_FULL = {"num_fp16_res": 0}
_END = {"mbstd_group": "mbstd_group_size", "mbstd_channels": "mbstd_num_channels"}


def generator_kwargs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of that project's `Generator` from those of ours."""
    options = _completed(Generator, options)
    return {
        **_renamed(options, {"z_dim": "z_dim", "w_dim": "w_dim"} | _SIZES),
        "mapping_kwargs": _renamed(options, _MAPPING),
        "synthesis_kwargs": _renamed(options, _WIDTHS | _BLOCKS | {"use_noise": "use_noise"}) | _IN_FULL,
    }


def discriminator_kwargs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of that project's `Discriminator` from those of ours."""
    options = _completed(Discriminator, options)
    return {
        **_renamed(options, _SIZES | _WIDTHS | {"cmap_dim": "cmap_dim"}),
        **_IN_FULL,
        "block_kwargs": _renamed(options, _BLOCKS),
        "mapping_kwargs": _renamed(options, _MAPPING),
        "epilogue_kwargs": _renamed(options, _END) | {"activation": options["epilogue_act"] or options["act"]},
    }


def _completed(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """With defaults of ours, which are others in other versions of that project."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(options)


def _renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: options[ours] for ours, theirs in names.items() if ours in options}


def nvidia_state_dict(source: Path, out: Path) -> Conversion:
    """Write the networks of a run, checkpoint or converted folder, or of a generator's .safetensors, to the file `out`.

    Raises:
        UserError: It is no StyleGAN2, or `out` has another suffix.
        OSError, SafetensorError: Something cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"out: {out.name} ends in {out.suffix or 'nothing'}, expected {' or '.join(SUFFIXES)}")
    files = _weights(source)
    networks = {NAMES[role]: _read(role, file) for role, file in files.items()}
    kwargs = {
        name: (discriminator_kwargs if name == "D" else generator_kwargs)(model.options)
        for name, model in networks.items()
    }
    if out.suffix == ".safetensors":
        tensors = {f"{name}.{key}": v for name, model in networks.items() for key, v in model.tensors.items()}
        with appears_complete(out) as partial:
            save_file(tensors, partial, metadata={name: json.dumps(value) for name, value in kwargs.items()})
    else:
        buffer = io.BytesIO()
        content = {name: {"kwargs": kwargs[name], "state_dict": model.tensors} for name, model in networks.items()}
        torch.save(content, buffer)
        write_atomically(out, buffer.getvalue())
    reads = [
        Read.of(name, out.name, model.tensors, kind_of(StyleGan2.name, model.options))
        for name, model in networks.items()
    ]
    return Conversion("smartfast", str(out), [Source.of(file) for file in files.values()], reads)


def _weights(source: Path) -> dict[Role, Path]:
    """The files of weights that `source` means; of a run that of the averaged generator."""
    if source.is_file() and source.suffix != ".safetensors":
        raise UserError(f"{source}: expected a run, checkpoint or converted folder, or a generator_ema.safetensors")
    sampler = open_sampler(source)
    if not isinstance(sampler, StyleGan2Sampler):
        raise UserError(f"{source}: is of another family than stylegan2, the one that those projects have")
    average = find_weights(source)
    if source.is_file():
        return {"generator_ema": average}
    files = {role: average.with_name(f"{role}.safetensors") for role in ROLES}
    return {role: file for role, file in files.items() if file.is_file()}


def _read(role: Role, file: Path) -> Model:
    try:
        options = json.loads(file.with_suffix(".json").read_text())
        model = Model({name: value for name, value in options.items() if name != "family"}, load_file(file))
        module_of(StyleGan2, role, model)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{file}: expected a {role}, found: {str(error).splitlines()[0]}") from error
    return model
