"""From a network to a denoiser: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) (Karras et al., arXiv 2206.00364)."""

import math

import torch
from torch import Tensor, nn

from smartfast.networks.unets.adm import ADM
from smartfast.networks.unets.edm import DhariwalUNet, SongUNet
from smartfast.networks.unets.layers import at_least_float32
from smartfast.networks.unets.options import ADMOptions, EDMOptions, SongOptions

VP_BETA_D, VP_BETA_MIN = 19.9, 0.1
TIMESTEPS = 1000
"""Of the networks that count noise levels: VP and iDDPM."""


class Denoiser(nn.Module):
    """A network with its preconditioning, with EDM's parameter names: `model.` before the network's own.

    The files of consistency_models have the network's own names: load them into `model`.
    """

    u: Tensor

    def __init__(self, options: EDMOptions) -> None:
        super().__init__()
        self.options, inner = options, options.model
        self.channels = options.image_shape[0]
        # Of iDDPM's network the second half of the output is a variance.
        out_channels = self.channels * (2 if options.preconditioning == "iddpm" else 1)
        self.model: nn.Module
        if isinstance(inner, ADMOptions):
            self.model = ADM(inner)
        elif isinstance(inner, SongOptions):
            self.model = SongUNet(inner, out_channels)
        else:
            self.model = DhariwalUNet(inner, out_channels)
        if options.preconditioning == "iddpm":
            self.register_buffer("u", iddpm_sigmas())

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """The denoised image D(x; sigma), at least float32 [N, C, H, W].

        Args:
            x: Noised images x + sigma n [N, C, H, W].
            sigma: Noise levels [N].
            labels: Class indices [N] or label vectors [N, label_dim]; None = no class.
            augment_labels: [N, augment_dim], of a network that has them; None = not augmented.
        """
        x = at_least_float32(x)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma.to(x.dtype))
        extra = () if augment_labels is None else (augment_labels,)
        output = self.model(_per_image(c_in) * x, c_noise, labels, *extra)[:, : self.channels]
        return _per_image(c_skip) * x + _per_image(c_out) * output.to(x.dtype)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise of noise levels sigma [N], each [N]."""
        one = torch.ones_like(sigma)
        match self.options.preconditioning:
            case "edm":
                return edm_coefficients(sigma, self.options.sigma_data)
            case "cm":
                return *edm_coefficients(sigma, self.options.sigma_data)[:3], 250 * (sigma + 1e-44).log()
            case "vp":
                return one, -sigma, (sigma.square() + 1).rsqrt(), (TIMESTEPS - 1) * vp_time(sigma)
            case "ve":
                return one, sigma, one, (sigma / 2).log()
            case "iddpm":
                nearest = (sigma[:, None] - self.u).abs().argmin(dim=1)
                return one, -sigma, (sigma.square() + 1).rsqrt(), (TIMESTEPS - 1 - nearest).to(sigma.dtype)


def edm_coefficients(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise of EDM and EDM2, each [N]."""
    variance = sigma.square() + sigma_data**2
    return sigma_data**2 / variance, sigma * sigma_data * variance.rsqrt(), variance.rsqrt(), sigma.log() / 4


def vp_time(sigma: Tensor) -> Tensor:
    """t of noise levels [N] under sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1."""
    logs = 2 * VP_BETA_D * sigma.square().log1p()
    return ((VP_BETA_MIN**2 + logs).sqrt() - VP_BETA_MIN) / VP_BETA_D


def iddpm_sigmas(smallest_ratio: float = 0.001, offset: float = 0.008) -> Tensor:
    """Noise levels of iDDPM's cosine schedule, float32 [1001], descending to 0: entry 999 - t is that of timestep t."""

    def kept(j: int) -> float:
        return math.sin(math.pi / 2 * j / TIMESTEPS / (offset + 1)) ** 2

    sigmas = [0.0]
    for j in range(TIMESTEPS, 0, -1):
        ratio = max(kept(j - 1) / kept(j), smallest_ratio)
        sigmas.append(math.sqrt((sigmas[-1] ** 2 + 1) / ratio - 1))
    return torch.tensor(sigmas[::-1])


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
