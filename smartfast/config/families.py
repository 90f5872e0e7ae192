"""The groups `gan` and `loss` of the configuration, which differ by family; see smartfast/config/schema.py."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from smartfast.config.schedule import Quantity


@dataclass(frozen=True)
class GanSettings:
    """The networks. family: The name of their kind, a key of FAMILY_SETTINGS."""

    family: str


@dataclass(frozen=True)
class LossSettings:
    """The objective."""


@dataclass(frozen=True)
class StyleGan2Gan(GanSettings):
    """The two networks (StyleGAN2)."""

    family: Literal["stylegan2"] = "stylegan2"
    """Which kind of model is trained. Default: ours."""
    architecture_g: Literal["skip", "resnet", "orig"] = "skip"
    """Generator: how the blocks join. Default: StyleGAN2."""
    architecture_d: Literal["skip", "resnet", "orig"] = "resnet"
    """Discriminator: how the blocks join. Default: StyleGAN2; ADA's `cifar` takes orig."""
    z_dim: int = 512
    """Dimension of the latent z. Default: StyleGAN2."""
    w_dim: int = 512
    """Dimension of the intermediate latent w. Default: StyleGAN2."""
    mapping_layers: int = 8
    """Depth of the generator's mapping network. Default: StyleGAN2; ADA's `auto` and `cifar` take 2."""
    d_mapping_layers: int = 8
    """Depth of the discriminator's label mapping. Default: StyleGAN2; ADA keeps 8 in every configuration."""
    mapping_lr_multiplier: float = 0.01
    """Learning-rate multiplier of both mapping networks. Default: StyleGAN2."""
    channel_base: int = 32768
    """Feature maps at resolution r are min(channel_base / r, channel_max). Default: StyleGAN2 at 1024 pixels."""
    channel_max: int = 512
    """Largest number of feature maps of a layer. Default: StyleGAN2."""
    noise: bool = True
    """Add per-pixel noise in the generator's layers. Default: StyleGAN2."""
    mbstd_group: int = 4
    """Group size of the minibatch standard deviation, in images. Default: StyleGAN2; ADA's `cifar` takes 32."""
    mbstd_channels: int = 1
    """Channels of the minibatch standard deviation; 0 turns it off. Default: StyleGAN2."""
    mbstd_by_class: bool = False
    """Fill the groups of the minibatch standard deviation with one class each, as far as the batch allows, so that the
    discriminator sees a class collapse; fakes then take the labels of the reals. Default: StyleGAN2 mixes classes."""
    half_resolutions: int = 4
    """Highest resolutions that run in half precision when perf.precision is fp16 or bf16. Default: ADA."""
    conv_clamp: float | None = 256.0
    """Clamp of the convolutions' outputs; unset for none. Default: ADA."""
    w_avg_beta: float = 0.995
    """Decay per generator step of the running mean of w that truncation uses. Default: ADA."""


@dataclass(frozen=True)
class StyleGan2Loss(LossSettings):
    """The StyleGAN2 objective."""

    r1_gamma: Quantity = 10.0
    """Weight of the R1 penalty, a number or a schedule; 0 = off, though Adam's correction for it stays. ADA's rule of
    thumb is 0.0002 * resolution^2 / batch. Default: StyleGAN2."""
    r1_interval: int = 16
    """Iterations between two R1 steps; 0 = off. Default: StyleGAN2."""
    path_length_weight: float = 2.0
    """Weight of the path-length penalty; 0 = off, though Adam's correction for it stays (ADA). Default: StyleGAN2."""
    path_length_interval: int = 4
    """Iterations between two path-length steps; 0 = off, without Adam's correction. Default: StyleGAN2."""
    path_length_decay: float = 0.01
    """Step of the running mean of path lengths. Default: StyleGAN2."""
    path_length_shrink: int = 2
    """The path-length step uses 1/shrink of the batch. Default: StyleGAN2."""
    style_mixing_prob: float = 0.9
    """Probability that an image takes its later styles from a second latent. Default: StyleGAN2."""


class FamilySettings(NamedTuple):
    """The two groups of one family."""

    gan: type[GanSettings]
    loss: type[LossSettings]


DEFAULT_FAMILY = "stylegan2"
"""Where nothing names one, as in files of before there were others."""

FAMILY_SETTINGS: dict[str, FamilySettings] = {
    "stylegan2": FamilySettings(StyleGan2Gan, StyleGan2Loss),
}
"""By the values of gan.family."""
