"""A scorer as a source of images: DDIM on its own schedule, so that it can be held against what it teaches."""

from typing import Any

import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.scorers import Scorer


class ScorerSampler(Sampler):
    """See `Sampler`; a latent is the noise that a sample starts from.

    Args:
        module: A scorer of any kind.
        steps: Passes of a sample.
    """

    module: Scorer
    steps: int

    def __init__(self, module: Scorer, *, steps: int = 32, **options: Any) -> None:
        super().__init__(module, image_shape=module.image_shape, num_classes=module.num_classes, **options)
        self.z_shape, self.steps = self.image_shape, steps

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        """By DDIM without noise on the way (Song et al., arXiv 2010.02502, eq. 12), which starts at the last timestep
        and keeps the estimate of the clean image within [-1, 1]; of mixed label vectors the class that has most."""
        if look != PLAIN:
            raise UserError("truncation_psi, truncation_cutoff, noise: a diffusion model has none of them")
        scorer, labels = self.module, None if c is None else c.argmax(dim=1)
        times = self._timesteps()
        x = scorer.sigmas[times[0]] * z
        for t, after in zip(times, [*times[1:], None], strict=True):
            eps = scorer.predict_eps(x, torch.full((len(z),), t, device=z.device), labels)
            image = ((x - scorer.sigmas[t] * eps) / scorer.alphas[t]).clamp(-1, 1)
            x = image if after is None else scorer.alphas[after] * image + scorer.sigmas[after] * eps
        return x

    def _timesteps(self) -> list[int]:
        """From the last one that has some signal down, in equal steps to one that would be before the first."""
        last = int((self.module.alphas > 0).nonzero().max())
        return [round((last + 1) * (1 - step / self.steps)) - 1 for step in range(self.steps)]

    def check_steps(self, steps: int) -> None:
        if steps > self.module.num_timesteps:
            raise UserError(
                f"steps is {steps}, expected at most the {self.module.num_timesteps} timesteps of the scorer"
            )

    @property
    def device(self) -> torch.device:
        """Where the scorer is; an analytic one has no parameters."""
        return self.module.alphas.device
