"""EDM's and EDM2's denoisers, frozen, and the noise levels that timesteps stand for in them."""

import math
from typing import Any

import torch
from torch import Tensor

from smartfast.core.draws import one_hot
from smartfast.errors import UserError
from smartfast.networks.unets import EDM2, Denoiser
from smartfast.scorers.prepared import PreparedScorer
from smartfast.scorers.schedule import NoiseSchedule, edm_schedule


class EDMScorer(PreparedScorer):
    """A denoiser D(x; sigma), which predicts x0 of x_t = x + sigma_t eps. Arguments as `PreparedScorer`.

    schedule: None = the noise levels of the network's own timesteps, if it has any, else `edm_schedule()`.

    Raises:
        UserError: A schedule in which images fade.
    """

    takes_no_class = True

    def __init__(
        self, network: Denoiser | EDM2, schedule: NoiseSchedule | None = None, *, where: str = "scorer", **options: Any
    ) -> None:
        schedule = schedule or own_schedule(network) or edm_schedule()
        if not bool((schedule.alphas == 1).all()):
            raise UserError(f"{where}: the schedule is {schedule.name}, expected one of sigmas alone, x + sigma eps")
        super().__init__(network, schedule, parameterization="x0", where=where, **options)
        self.label_dim = network.options.classes

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        x_t = x_t.to(memory_format=torch.channels_last)
        labels = self.known_classes(labels, t)
        if self.null_class == self.label_dim:
            labels = one_hot(labels, self.label_dim)  # of which the index after the last is a vector of zeros
        return self.unet(x_t, self.sigma(t), labels)


def own_schedule(network: Denoiser | EDM2) -> NoiseSchedule | None:
    """The noise levels that a network was trained at, if they are a table: those of iDDPM's preconditioning."""
    if not isinstance(network, Denoiser) or network.options.preconditioning != "iddpm":
        return None
    sigmas = network.u[:-1].flip(0).to(torch.float64)
    return NoiseSchedule("iddpm", torch.ones_like(sigmas), sigmas)


def log_uniform_schedule(
    num_timesteps: int = 1000, *, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> NoiseSchedule:
    """x_t = x + sigma_t eps with sigma_t from sigma_min to sigma_max in equal steps of ln sigma."""
    sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), num_timesteps, dtype=torch.float64).exp()
    return NoiseSchedule("log_uniform", torch.ones_like(sigmas), sigmas)
