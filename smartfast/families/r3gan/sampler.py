"""Images of R3GAN's generator: a latent and a label are all that is random."""

from typing import Any

from torch import Tensor

from smartfast.errors import UserError
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.networks.r3gan import Generator


class R3GanSampler(Sampler):
    """See `Sampler`."""

    module: Generator

    def __init__(self, module: Generator, **options: Any) -> None:
        shape = (module.options.channels, module.options.resolution, module.options.resolution)
        super().__init__(module, image_shape=shape, num_classes=module.options.classes, **options)
        self.z_shape = (module.z_dim,)

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if look != PLAIN:
            raise UserError(f"found {look}, expected {PLAIN}: R3GAN has neither truncation nor noise in its layers")
        return self.module(z, c)
