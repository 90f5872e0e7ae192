"""GANs out of files of other projects, as arguments and tensors of networks of ours.

`read_gan(path)` is what commands and starting weights build upon; what it takes and returns stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sys import float_info
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.interop import aurora, biggan, hammer, nvidia, r3gan, rosinality
from smartfast.interop.project import Project, Reader
from smartfast.interop.recognise import Network, networks_in, rest_of
from smartfast.interop.records import Record, printable
from smartfast.interop.safe_pickle import read_untrusted

Role = Literal["generator", "discriminator", "generator_ema"]
ROLES: tuple[Role, ...] = get_args(Role)
GENERATORS: frozenset[Role] = frozenset({"generator", "generator_ema"})
PROJECTS = (nvidia.PROJECT, hammer.PROJECT, aurora.PROJECT, rosinality.PROJECT, r3gan.PROJECT, biggan.PROJECT)
_MISFITS = (ValueError, KeyError, IndexError, StopIteration, TypeError, RuntimeError)
_ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@dataclass(frozen=True)
class Model:
    """A network: arguments that build it, which JSON can hold, and its state dict.

    options: Of `Family.build` or `Family.build_discriminator`. Precision is left out: a network computes in
        float32, whatever it was trained in.
    tensors: Copies in float32 on the CPU.
    """

    options: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class GanFile:
    """What a file holds of a GAN, of BigGAN a folder of them.

    family: Key of `smartfast.families.FAMILIES`.
    project: Whose format the file has.
    models: At least one.
    names: The name of each in the file.
    left_out: Everything else in the file by name -> why.
    notes: What is not the file's, one line each.
    augment_p: Probability of augmentation that training had reached, above 1 where nothing bounded it; None = the file
        has none.
    files: All that were read.
    """

    family: str
    project: str
    models: dict[Role, Model]
    names: dict[Role, str]
    left_out: dict[str, str]
    augment_p: float | None
    notes: list[str]
    files: list[Path]


def read_gan(path: Path) -> GanFile:
    """The GAN in a file of another project, or, of BigGAN, in it and those beside it; nothing in it is executed.

    Raises:
        UserError: The file cannot be read, holds none of a family that is there, or generators none of which can be
            read; what it holds is named.
    """
    content = read_untrusted(path)
    networks, files = networks_in(content, path), [path]
    unread: dict[str, str] = {}
    if "" in networks and networks[""].kind in biggan.PROJECT.readers:
        networks, content, files, unread = biggan.whole(path, networks[""])
    kinds = {network.kind for network in networks.values()}
    project = next((known for known in PROJECTS if kinds & set(known.readers)), None)
    if project is None:
        raise UserError(f"{path}: {_why_no_gan(networks)}")
    models: dict[Role, Model] = {}
    names: dict[Role, str] = {}
    left_out: dict[str, str] = dict(unread)
    for name, network in networks.items():
        role = next((role for role in ROLES if project.roles.get(name) == role), None)
        reader = project.readers.get(network.kind)
        if role is None or reader is None:
            left_out[printable(name)] = _why_not(network, project)
            continue
        try:
            models[role], names[role] = _read(reader, network, content), name
        except _MISFITS as error:
            missing = isinstance(error, KeyError | StopIteration)
            left_out[printable(name)] = f"{network.kind}: " + printable(
                f"{error} is missing" if missing else str(error)
            )
    has_generator = any(project.roles.get(name) in GENERATORS for name in networks)
    if not models or (has_generator and not GENERATORS & models.keys()):
        raise UserError(f"{path}: " + "; ".join(f"{name or 'it'}: {reason}" for name, reason in left_out.items()))
    left_out |= {name: why for name, why in rest_of(content, networks).items() if name not in project.also_read}
    notes = project.notes(content)
    return GanFile(project.family, project.name, models, names, left_out, _augment_p(content), notes, files)


def _read(reader: Reader, network: Network, content: Mapping[str, object]) -> Model:
    options, tensors = reader(network, content)
    _check(options)
    copies = {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in tensors.items()}
    return Model(options, {name: value.contiguous() for name, value in copies.items()})


def _check(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that no network has; shapes, attributes and arguments in the file give them."""
    for name in ("z_dim", "w_dim", "channels", "channel_base", "channel_max", "mbstd_channels"):
        least = 0 if name == "mbstd_channels" else 1
        if options.get(name, least) < least:
            raise ValueError(f"{name} is {options[name]}, expected at least {least}")
    for name in ("act", "mapping_act", "epilogue_act"):
        if options.get(name, "lrelu") not in _ACTS:
            raise ValueError(f"{name} is {options[name]}, expected one of {', '.join(_ACTS)}")
    for name, is_optional in (("conv_clamp", True), ("mapping_lr_multiplier", False), ("mbstd_group", True)):
        value = options.get(name, 1)
        if value is None and is_optional:
            continue
        if type(value) not in (int, float) or not 0 < value < 1e9 or (name == "mbstd_group" and type(value) is float):
            raise ValueError(f"{name} is {str(value)[:60]}, expected a number above 0")


def _why_no_gan(networks: Mapping[str, Network]) -> str:
    name, network = list(networks.items())[-1]
    return f"{printable(name) or 'it'} is of the kind {network.kind}, expected a GAN"


def _why_not(network: Network, project: Project) -> str:
    if network.kind in project.readers:
        return f"{network.kind} of an unknown name, expected one of {', '.join(project.roles)}"
    if network.kind == "stylegan2 augmentation":
        return "augmentation, but for its probability"
    return f"{network.kind}, no network of the GAN"


def _augment_p(content: Mapping[str, object]) -> float | None:
    """NVIDIA's augmentation pipe has it as a buffer, rosinality's files as a number."""
    pipe = content.get("augment_pipe")
    buffers = pipe.state.get("_buffers") if isinstance(pipe, Record) else None
    value = buffers.get("p") if isinstance(buffers, dict) else content.get("ada_aug_p")
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) and 0 <= value <= float_info.max else None
