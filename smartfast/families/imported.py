"""GANs out of files of other projects: as modules, and as what a run starts from."""

from pathlib import Path

import torch
from torch import nn

from smartfast.families.base import Family
from smartfast.families.start import ROLES, StartWeights
from smartfast.interop import read_gan
from smartfast.interop.models import Model, Role


def module_of(family: type[Family], role: Role, model: Model) -> nn.Module:
    """The network of `smartfast.interop.read_gan(...).models[role]` with its weights, on the CPU, in training mode.

    Raises:
        ValueError: Options without a network, tensors that are not all of its own, or numbers that are not finite.
    """
    with torch.device("meta"):  # a file may state widths that no memory holds
        module = (family.build_discriminator if role == "discriminator" else family.build)(**model.options)
    wanted = module.state_dict()
    for name in [*wanted, *model.tensors]:
        found, expected = (tuple(part[name].shape) if name in part else "none" for part in (model.tensors, wanted))
        if found != expected:
            raise ValueError(f"{name} is {found}, expected {expected}")
    for name, value in model.tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
    module.load_state_dict(model.tensors, assign=True)
    return module


def weights_of_file(path: Path) -> StartWeights | None:
    """The GAN in a file that `smartfast.interop.read_gan` reads, whatever its family; None where `path` is no file.

    Raises:
        UserError: As `read_gan`.
    """
    if not path.is_file():
        return None
    gan = read_gan(path)
    model = gan.models.get("generator_ema") or gan.models.get("generator")
    networks = {ROLES[role]: model.tensors for role, model in gan.models.items()}
    left_out = [f"left out: {', '.join(gan.left_out)}"] if gan.left_out else []
    notes = [f"format: {gan.project}", *gan.notes, *left_out]
    return StartWeights(str(path), gan.family, model.options if model else {}, networks, notes, gan.augment_p)
