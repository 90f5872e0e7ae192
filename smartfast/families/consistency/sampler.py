"""Samples of a consistency model in one step or several: a latent is the noise that it starts from."""

import math
from typing import Any

from torch import Tensor

from smartfast.core.draws import Purpose
from smartfast.errors import UserError
from smartfast.families.consistency.network import ConsistencyModel
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.kernels import philox_normal


class ConsistencySampler(Sampler):
    """See `Sampler`."""

    module: ConsistencyModel
    steps: int

    def __init__(self, module: ConsistencyModel, **options: Any) -> None:
        super().__init__(module, image_shape=module.image_shape, num_classes=module.num_classes, **options)
        self.z_shape, self.steps = self.image_shape, 1

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        """By multistep consistency sampling (Song et al., algorithm 1); of mixed label vectors the class that has most.

        The noise of further steps is the seeds'.
        """
        if look != PLAIN:
            raise UserError("truncation_psi, truncation_cutoff, noise: a consistency model has none of them")
        model, labels = self.module, None if c is None else c.argmax(dim=1)
        first, *others = model.levels(self.steps)
        images = model(first * z, z.new_full((len(z),), first), labels)
        if not others:
            return images
        noise = philox_normal(self.seed, seeds, len(others) * math.prod(self.z_shape), int(Purpose.FURTHER_STEPS))
        for sigma, drawn in zip(others, noise.view(len(z), len(others), *self.z_shape).unbind(dim=1), strict=True):
            x = images.clamp(-1, 1) + math.sqrt(sigma**2 - model.sigma_min**2) * drawn
            images = model(x, z.new_full((len(z),), sigma), labels)
        return images

    def check_steps(self, steps: int) -> None:
        most = self.module.scheduler.config.num_train_timesteps
        if steps > most:
            raise UserError(f"steps is {steps}, expected at most the {most} of the model's schedule")
