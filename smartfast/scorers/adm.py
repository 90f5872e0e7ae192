"""ADM's UNet, frozen, as guided-diffusion publishes it."""

from typing import Literal

import torch

from smartfast.scorers.schedule import NoiseSchedule, schedule_from_betas


def adm_schedule(name: Literal["linear", "cosine"], num_timesteps: int = 1000) -> NoiseSchedule:
    """guided-diffusion's schedules, in float64.

    linear is DDPM's at 1000 timesteps, cosine that of Nichol and Dhariwal (arXiv 2102.09672, eq. 17).
    """
    if name == "linear":
        scale = 1000 / num_timesteps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)
    else:
        times = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        kept = ((times + 0.008) / 1.008 * torch.pi / 2).cos().square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    return schedule_from_betas(betas, name)
