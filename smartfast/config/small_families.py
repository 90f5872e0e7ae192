"""The groups `gan` and `loss` of what is trained to look at the score term, or to be held against it."""

from dataclasses import dataclass
from typing import Literal

from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.ranges import Beta, Count, Depth, LogSigma, LogSigmaSpread, Ratio, Weight, Width


@dataclass(frozen=True)
class ToyGan(GanSettings):
    """The two networks (toy), for points of the plane: data.path plane:ring, plane:spiral, plane:modes, plane:lines,
    plane:square or plane:gaussian. All values are ours."""

    family: Literal["toy"] = "toy"
    """Which kind of model is trained."""
    z_dim: Width = 2
    """Dimension of the latent z; from 2 on, what is generated fills an area. Default: ours."""
    width: Width = 64
    """Width of the hidden layers of both networks. Default: ours."""
    depth: Depth = 3
    """Hidden layers of each. Default: ours."""


@dataclass(frozen=True)
class ToyLoss(LossSettings):
    """The objective (toy): the non-saturating logistic loss."""

    r1_gamma: Weight = 0.1
    """Weight of the R1 penalty, which is in every step of the discriminator. Default: ours."""


@dataclass(frozen=True)
class VaeGan(GanSettings):
    """The autoencoder (vae), for images of 8, 16, 32, ... pixels. All values are ours."""

    family: Literal["vae"] = "vae"
    """Which kind of model is trained."""
    z_dim: Width = 32
    """Dimension of the latent z. Default: ours."""
    width: Width = 32
    """Feature maps at half the resolution, twice as many at each halving down to 4 pixels; a multiple of 8.
    Default: ours."""


@dataclass(frozen=True)
class VaeLoss(LossSettings):
    """The objective (vae): the evidence lower bound, in nats per value of an image."""

    pixel_std: Ratio = 0.3
    """Standard deviation of a value, in [-1, 1], around the decoded one; smaller asks for sharper images of the data
    and leaves latents farther from the prior. Default: ours."""


@dataclass(frozen=True)
class ConsistencyGan(GanSettings):
    """The network (consistency), diffusers' UNet2DModel, as in its ConsistencyModelPipeline. All values are ours."""

    family: Literal["consistency"] = "consistency"
    """Which kind of model is trained."""
    block_out_channels: tuple[Count, ...] = (128, 256, 256, 256)
    """Feature maps at each resolution, from the full one down by halves. Default: ours."""
    layers_per_block: Depth = 2
    """Residual blocks at each resolution. Default: ours."""
    attention: tuple[Count, ...] = (16,)
    """Resolutions, in pixels, with attention; the lowest one always has it in the middle block. Default: ours."""
    attention_head_dim: Count = 64
    """Channels of an attention head. Default: ours."""
    norm_groups: Count = 32
    """Groups of the group normalization; divides every number of feature maps. Default: ours."""


@dataclass(frozen=True)
class ConsistencyLoss(LossSettings):
    """The objective (consistency): consistency distillation of smart.scorer. "CD" is that of Song et al. (arXiv
    2303.01469) on ImageNet 64, "iCT" Song and Dhariwal (arXiv 2310.14189)."""

    intervals: Count = 40
    """Pieces that the noise between the two ends is cut into; as many as the scorer has timesteps there at most.
    Default: CD."""
    sigma_min: Ratio = 0.002
    """The least noise, in units of the images, at which the network gives back what it gets. Default: CD."""
    sigma_max: Ratio = 80.0
    """The most noise, which a sample starts from. Default: CD."""
    sigma_data: Ratio = 0.5
    """Standard deviation of the images' values. Default: CD."""
    solver: Literal["heun", "euler"] = "heun"
    """How the scorer takes the images to the next lower noise: euler is a step of DDIM, heun costs a second pass.
    Default: CD."""
    target_decay: Beta = 0.95
    """Decay per step of the averaged weights that give the target; 0 = those of the step before. Default: CD."""
    weighting: Literal["step", "none"] = "step"
    """What a distance counts: one over the step in sigma, or 1 as in CD, where most noise counts more. Default: iCT."""
    ln_sigma_mean: LogSigma = -1.1
    """Mean of the normal ln sigma by which pieces are drawn. Default: iCT."""
    ln_sigma_std: LogSigmaSpread = 2.0
    """Standard deviation of that. Default: iCT."""
