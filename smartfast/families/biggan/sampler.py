"""Images of BigGAN's generator: statistics of batch norm that no batch decides, and latents drawn again."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from smartfast.core.draws import Purpose, one_hot
from smartfast.errors import UserError
from smartfast.families.sampling import Look, Places, Sampler
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.networks.biggan import Generator


class BigGanSampler(Sampler):
    """See `Sampler`.

    In evaluation mode, images are normalised with standing statistics where the network asks for them: those that its
    weights have when the first image is drawn, so weights that have moved since take a new sampler.
    """

    module: Generator

    def __init__(self, module: Generator, **options: Any) -> None:
        shape = (module.options.channels, module.options.resolution, module.options.resolution)
        super().__init__(module, image_shape=shape, num_classes=module.options.classes, **options)
        self.z_shape = (module.z_dim,)
        self._statistics: dict[str, Tensor] | None = None

    def keys(self, seeds: Tensor, look: Look) -> Tensor:
        z = super().keys(seeds, replace(look, threshold=None))
        return z if look.threshold is None else truncated(z, seeds.to(z.device), look.threshold)

    def mix(self, z: Tensor, c: Tensor | None, places: Places, *, space: str, look: Look) -> Tensor:
        return super().mix(z, c, places, space=space, look=replace(look, threshold=None))  # the keys are truncated

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if (look.psi, look.cutoff, look.noise) != (1, None, "const"):
            raise UserError(
                f"found psi {look.psi:g}, cutoff {look.cutoff}, noise {look.noise}, expected 1, None and const: BigGAN "
                "truncates by truncation_threshold, and its layers have no noise"
            )
        if look.threshold is not None:
            z = truncated(z, seeds.to(z.device), look.threshold)
        if self.module.training or self.module.standing is None:
            return self.module(z, c)
        if self._statistics is None:
            self._statistics = standing_statistics(self.module)
        return functional_call(self.module, self._statistics, (z, c))


def truncated(z: Tensor, seeds: Tensor, threshold: float) -> Tensor:
    """Latents [N, D] whose values beyond `threshold` are drawn again until they are within (BigGAN, section 3.1).

    The draw is one of the truncated normal distribution by its quantiles, which is the same, as a function of the
    seeds, int64 [N].
    """
    uniform = philox_uniform(0, seeds, z.shape[1], Purpose.TRUNCATION).to(z.dtype)
    within = math.sqrt(2) * torch.erfinv((2 * uniform - 1) * math.erf(threshold / math.sqrt(2)))
    return torch.where(z.abs() > threshold, within.clamp(-threshold, threshold), z)


@torch.no_grad()
def standing_statistics(g: Generator) -> dict[str, Tensor]:
    """Mean over `g.standing` batches of the mean and variance in each batch norm, by the names of its buffers.

    The images have random latents and classes, always the same ones. The network is left as it is.
    """
    assert g.standing is not None
    passes, batch = g.standing
    norms, device = g.norms(), next(g.parameters()).device
    before = [(norm.training, norm.momentum, norm.is_synchronised) for norm in norms.values()]
    names = [f"{name}.{buffer}" for name in norms for buffer in ("stored_mean", "stored_var")]
    totals = {name: torch.zeros_like(g.get_buffer(name)) for name in names}
    for norm in norms.values():
        norm.training, norm.momentum, norm.is_synchronised = True, 1.0, False
    try:
        for numbers in torch.arange(passes * batch, device=device).split(batch):
            z = philox_normal(0, numbers, g.z_dim, Purpose.STANDING)
            drawn = philox_uniform(0, numbers, 1, Purpose.STANDING + Purpose.CHOICES)[:, 0]
            of_batch = {name: torch.zeros_like(total) for name, total in totals.items()}
            labels = (drawn * g.options.classes).to(torch.int64)
            functional_call(g, of_batch, (z, one_hot(labels, g.options.classes)))
            for name, value in of_batch.items():
                totals[name].add_(value, alpha=1 / passes)
    finally:
        for norm, attributes in zip(norms.values(), before, strict=True):
            norm.training, norm.momentum, norm.is_synchronised = attributes
    return totals
