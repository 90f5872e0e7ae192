"""StyleGAN2's networks out of files of other projects, as modules."""

import torch

from smartfast.interop.models import Model, Role
from smartfast.networks.stylegan2 import Discriminator, Generator


def module_of(role: Role, model: Model) -> Generator | Discriminator:
    """The network of `smartfast.interop.read_gan(...).models[role]` with its weights, on the CPU, in training mode.

    Raises:
        ValueError: Options without a network, tensors that are not all of its own, or numbers that are not finite.
    """
    with torch.device("meta"):  # a file may state widths that no memory holds
        module = (Discriminator if role == "discriminator" else Generator)(**model.options)
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
