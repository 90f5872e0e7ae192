"""EDM's denoisers, which are told the noise level itself (Karras et al., arXiv 2206.00364)."""

import copy
from pathlib import Path

import torch
from torch import Tensor

from smartfast.config.families import DenoiserLoss
from smartfast.core.draws import Purpose
from smartfast.families.denoiser.network import Denoiser, Noised, per_image, unit_noise
from smartfast.kernels import philox_normal
from smartfast.networks.unets import Denoiser as PreconditionedNetwork
from smartfast.networks.unets import EDMOptions
from smartfast.scorers import Scorer
from smartfast.scorers.converted import save_scorer
from smartfast.scorers.edm import EDMScorer
from smartfast.scorers.schedule import edm_schedule


class EDMDenoiser(Denoiser):
    """D(x; sigma), the clean image of x = image + sigma eps.

    Args:
        options: Of the network.
        sample_steps: Of Heun's method, two or more; each but the last takes two passes.
    """

    unet: PreconditionedNetwork
    level_dtype = torch.float32

    def __init__(self, options: EDMOptions, sample_steps: int) -> None:
        network, shape = PreconditionedNetwork(options), options.image_shape
        super().__init__(network, image_shape=shape, num_classes=options.classes, sample_steps=sample_steps)

    def forward(self, x_t: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        """Classes may be label vectors [N, classes], of zeros for no class."""
        return self.unet(x_t, level, labels)

    def noised(self, images: Tensor, stream: Tensor, *, seed: int, settings: DenoiserLoss) -> Noised:
        """At log-normal sigmas, with the weight that makes all levels alike: 1 / c_out^2 (table 1)."""
        normal = philox_normal(seed, stream, 1, int(Purpose.TIMESTEP))[:, 0]
        sigma = (settings.ln_sigma_mean + settings.ln_sigma_std * normal).exp()
        weight = sigma.square().reciprocal() + self.unet.options.sigma_data**-2
        x_t = images + per_image(sigma) * unit_noise(images, stream, seed)
        return Noised(x_t, sigma, images, per_image(weight))

    @torch.no_grad()
    def samples(self, labels: Tensor | None, noise: Tensor) -> Tensor:
        """By Heun's method without noise on the way (algorithm 1)."""
        sigmas = [*reversed(edm_schedule(max(self.sample_steps, 2)).sigmas.tolist()), 0.0]
        x = noise * sigmas[0]
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            slope = self._slope(x, sigma, labels)
            euler = x + (after - sigma) * slope
            x = x + (after - sigma) * (slope + self._slope(euler, after, labels)) / 2 if after else euler
        return x

    def _slope(self, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
        """dx / dsigma of the flow (eq. 3)."""
        return (x - self(x, torch.full((len(x),), sigma, device=x.device), labels)) / sigma

    def scorer(self, device: torch.device) -> Scorer:
        return EDMScorer(copy.deepcopy(self.unet), device=device)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        save_scorer(folder, self.unet.options, self.unet.state_dict(), dtype=dtype)
