"""Samples of a diffusion model without chance on the way: a latent is the noise that it starts from."""

from torch import Tensor

from smartfast.errors import UserError
from smartfast.families.denoiser.network import Denoiser
from smartfast.families.sampling import PLAIN, Look, Sampler


class DenoiserSampler(Sampler):
    """See `Sampler`."""

    module: Denoiser

    def __init__(
        self, module: Denoiser, *, data_labels: Tensor | None = None, seed: int = 0, look: Look = PLAIN
    ) -> None:
        super().__init__(
            module,
            image_shape=module.image_shape,
            num_classes=module.num_classes,
            data_labels=data_labels,
            seed=seed,
            look=look,
        )
        self.z_shape = self.image_shape

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        """Of mixed label vectors the class that has most."""
        if look != PLAIN:
            raise UserError("truncation_psi, truncation_cutoff, noise: a diffusion model has none of them")
        return self.module.samples(None if c is None else c.argmax(dim=1), z)
