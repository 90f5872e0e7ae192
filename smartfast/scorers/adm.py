"""ADM's UNet, frozen, as guided-diffusion publishes it."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.networks.unets import ADM
from smartfast.scorers.prepared import PreparedScorer
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


class ADMScorer(PreparedScorer):
    """ADM's UNet, which predicts eps; a learned variance is left out. Arguments as `PreparedScorer`.

    Raises:
        UserError: As many output channels as are neither an eps nor an eps and its variance.
    """

    schedules = {name: partial(adm_schedule, name) for name in ("linear", "cosine")}

    def __init__(self, network: ADM, schedule: NoiseSchedule, *, where: str = "scorer", **options: Any) -> None:
        channels, outputs = network.options.in_channels, network.options.out_channels
        if outputs not in (channels, 2 * channels):
            raise UserError(
                f"{where}: out_channels is {outputs}, expected in_channels ({channels}) or, with a learned variance, "
                "twice that"
            )
        super().__init__(network, schedule, parameterization="eps", where=where, **options)

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        x_t = x_t.to(memory_format=torch.channels_last)
        return self.unet(x_t, self.told(t), self.known_classes(labels, t))[:, : self.channels]
