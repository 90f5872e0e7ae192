"""Samples of a diffusion model by DDIM (Song et al., arXiv 2010.02502): a latent is the noise that it starts from."""

import torch
from diffusers import DDIMScheduler
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
        config = module.unet.config
        super().__init__(
            module,
            image_shape=(config.in_channels, config.sample_size, config.sample_size),
            num_classes=config.num_class_embeds or 0,
            data_labels=data_labels,
            seed=seed,
            look=look,
        )
        self.z_shape = self.image_shape

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        """Of mixed label vectors the class that has most."""
        if look != PLAIN:
            raise UserError("truncation_psi, truncation_cutoff, noise: a diffusion model has none of them")
        return ddim_samples(self.module, None if c is None else c.argmax(dim=1), z)


@torch.no_grad()
def ddim_samples(denoiser: Denoiser, labels: Tensor | None, noise: Tensor) -> Tensor:
    """Deterministic samples, float32 [N, C, H, W] in about [-1, 1].

    Args:
        denoiser: The model; its `sample_steps` are at most the timesteps of its schedule.
        labels: int64 [N] or None.
        noise: float32 [N, C, H, W], unit normal: where the samples start.
    """
    ddim = DDIMScheduler.from_config(denoiser.scheduler, clip_sample=True)
    ddim.set_timesteps(min(denoiser.sample_steps, len(denoiser.alphas)))
    x = noise
    for t in ddim.timesteps:
        batch_t = torch.full((len(x),), int(t), device=x.device)
        x = ddim.step(denoiser(x, batch_t, labels).to(torch.float32), t, x).prev_sample
    return x
