"""Networks that count timesteps (Ho et al., DDPM, arXiv 2006.11239): diffusers' UNet2DModel and ADM's UNet."""

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from smartfast.config.families import DenoiserLoss
from smartfast.core.draws import draw_timesteps
from smartfast.core.files import appear_complete
from smartfast.families.denoiser.network import Denoiser, Noised, per_image, unit_noise
from smartfast.networks.unets import ADM, ADMOptions
from smartfast.scorers import Scorer, UNetScorer
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.converted import save_scorer
from smartfast.scorers.schedule import parameterization_of, schedule_from_config

ADM_SCHEDULES: dict[str, Literal["linear", "cosine"]] = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
"""guided-diffusion's names of schedules, by diffusers'."""


class DiscreteDenoiser(Denoiser):
    """Predicts eps, x0 or v of x_t = alpha_t x + sigma_t eps.

    Args:
        scheduler: Of diffusers, as scheduler_config.json has it.
        more: See `Denoiser`; `sample_steps` counts DDIM's.
    """

    alphas: Tensor
    sigmas: Tensor
    level_dtype = torch.int64

    def __init__(self, unet: nn.Module, scheduler: dict[str, Any], **more: Any) -> None:
        super().__init__(unet, **more)
        self.scheduler = scheduler
        with torch.device("cpu"):  # its values are checked, also where the network is built without any
            self.schedule = schedule_from_config(scheduler, "scheduler")
        self.parameterization = parameterization_of(scheduler, "scheduler")
        self.register_buffer("alphas", self.schedule.alphas.float(), persistent=False)
        self.register_buffer("sigmas", self.schedule.sigmas.float(), persistent=False)

    def noised(self, images: Tensor, stream: Tensor, *, seed: int, settings: DenoiserLoss) -> Noised:
        """At timesteps that are equally likely; the error has no weight (DDPM, eq. 14)."""
        t = draw_timesteps(seed, stream, 0, len(self.alphas) - 1)
        noise = unit_noise(images, stream, seed)
        alpha, sigma = per_image(self.alphas[t]), per_image(self.sigmas[t])
        targets = {"eps": noise, "x0": images, "v": alpha * noise - sigma * images}
        return Noised(alpha * images + sigma * noise, t, targets[self.parameterization], 1.0)

    @torch.no_grad()
    def samples(self, labels: Tensor | None, noise: Tensor) -> Tensor:
        """By DDIM (Song et al., arXiv 2010.02502); at most as many steps as the schedule has timesteps."""
        ddim = DDIMScheduler.from_config(self.scheduler, clip_sample=True)
        ddim.set_timesteps(min(self.sample_steps, len(self.alphas)))
        x = noise
        for t in ddim.timesteps:
            batch_t = torch.full((len(x),), int(t), device=x.device)
            x = ddim.step(self(x, batch_t, labels).to(torch.float32), t, x).prev_sample
        return x


class DiffusersDenoiser(DiscreteDenoiser):
    """diffusers' UNet2DModel.

    Args:
        unet: Arguments of `UNet2DModel`.
        scheduler, sample_steps: See `DiscreteDenoiser`.
    """

    unet: UNet2DModel

    def __init__(self, unet: dict[str, Any], scheduler: dict[str, Any], sample_steps: int) -> None:
        network = UNet2DModel(**unet)
        config = network.config
        super().__init__(
            network,
            scheduler,
            image_shape=(config.in_channels, config.sample_size, config.sample_size),
            num_classes=config.num_class_embeds or 0,
            sample_steps=sample_steps,
        )

    def forward(self, x_t: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        return self.unet(x_t, level, class_labels=labels, return_dict=False)[0]

    def scorer(self, device: torch.device) -> Scorer:
        unet = copy.deepcopy(self.unet)
        return UNetScorer(unet, self.schedule, parameterization=self.parameterization, device=device)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        unet = nn.Module.to(copy.deepcopy(self.unet), dtype)  # nn.Module's own: diffusers' logs a warning
        with appear_complete(folder) as partial:
            unet.save_pretrained(partial, safe_serialization=True)
            DDPMScheduler.from_config(self.scheduler).save_config(partial)


class ADMDenoiser(DiscreteDenoiser):
    """ADM's UNet, which predicts eps.

    Args:
        options: Of the network.
        scheduler, sample_steps: See `DiscreteDenoiser`.
    """

    unet: ADM

    def __init__(self, options: ADMOptions, scheduler: dict[str, Any], sample_steps: int) -> None:
        shape, classes = options.image_shape, options.classes
        super().__init__(ADM(options), scheduler, image_shape=shape, num_classes=classes, sample_steps=sample_steps)
        self.schedule_name = ADM_SCHEDULES[scheduler["beta_schedule"]]

    def forward(self, x_t: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        return self.unet(x_t, level, labels)

    def scorer(self, device: torch.device) -> Scorer:
        return ADMScorer(copy.deepcopy(self.unet), adm_schedule(self.schedule_name), device=device)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        unet = self.unet
        save_scorer(folder, unet.options, unet.state_dict(), schedule=self.schedule_name, dtype=dtype)
