"""The trained network: a UNet2DModel with its noise schedule."""

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from smartfast.scorers.schedule import parameterization_of, schedule_from_config


class Denoiser(nn.Module):
    """A UNet2DModel that predicts eps, x0 or v of x_t = alpha_t x + sigma_t eps.

    Args:
        unet: Arguments of `UNet2DModel`.
        scheduler: Of diffusers, as scheduler_config.json has it.
        sample_steps: DDIM steps of a sample.
    """

    alphas: Tensor
    sigmas: Tensor

    def __init__(self, unet: dict[str, Any], scheduler: dict[str, Any], sample_steps: int) -> None:
        super().__init__()
        self.unet, self.scheduler, self.sample_steps = UNet2DModel(**unet), scheduler, sample_steps
        with torch.device("cpu"):  # its values are checked, also where the network is built without any
            self.schedule = schedule_from_config(scheduler, "scheduler")
        self.parameterization = parameterization_of(scheduler, "scheduler")
        self.register_buffer("alphas", self.schedule.alphas.float(), persistent=False)
        self.register_buffer("sigmas", self.schedule.sigmas.float(), persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The prediction [N, C, H, W] for noised images [N, C, H, W], timesteps int64 [N] and labels int64 [N]."""
        return self.unet(x_t, t, class_labels=labels, return_dict=False)[0]
