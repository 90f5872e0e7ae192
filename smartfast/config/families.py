"""The groups `gan` and `loss` of the configuration, which differ by family; see smartfast/config/schema.py."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.ranges import (
    Beta,
    Clamp,
    Count,
    CountOrZero,
    Depth,
    Epsilon,
    Fraction,
    KimgOrZero,
    LogSigma,
    LogSigmaSpread,
    Ratio,
    Timesteps,
    Weight,
    Width,
)
from smartfast.config.schedule import Schedule
from smartfast.config.small_families import ConsistencyGan, ConsistencyLoss, ToyGan, ToyLoss, VaeGan, VaeLoss


@dataclass(frozen=True)
class AuroraGan(GanSettings):
    """Aurora's generator (arXiv 2309.03904) and StyleGAN2's discriminator; lists go from 4 pixels up by doublings, one
    number for each resolution. "Aurora" are the public 64-pixel model's numbers; its discriminator is not public."""

    family: Literal["aurora"] = "aurora"
    """Which kind of model is trained. Default: ours."""
    z_dim: Width = 128
    """Dimension of the latent z. Default: Aurora."""
    w_dim: Width = 512
    """Dimension of the intermediate latent w. Default: ours; Aurora takes 1024."""
    mapping_layers: Depth = 4
    """Depth of the generator's mapping network. Default: Aurora."""
    mapping_width: Width = 1024
    """Width of its hidden layers. Default: Aurora."""
    mapping_lr_multiplier: Ratio = 0.01
    """Learning-rate multiplier of both mapping networks. Default: Aurora."""
    embedding: Width = 512
    """Dimension of the generator's label embedding. Default: ours; Aurora takes 1024."""
    kernels: tuple[Count, ...] = (1, 1, 2, 4, 8)
    """Kernels that each convolution mixes by w; 1 = an ordinary convolution. Default: Aurora."""
    blocks: tuple[Depth, ...] = (2, 2, 2, 2, 2)
    """Residual blocks. Default: ours; Aurora takes [3, 3, 3, 2, 2]."""
    attention: tuple[CountOrZero, ...] = (0, 1, 1, 1, 0)
    """Depth of the attention behind each block; 0 = none. Default: ours; Aurora takes [0, 2, 2, 2, 1]."""
    experts: tuple[CountOrZero, ...] = (0, 4, 4, 4, 0)
    """Experts of the attention's feed-forward layers, each token meets one; below 2 = one layer for all. Default: ours;
    Aurora takes [0, 4, 8, 16, 16]."""
    channel_base: Count = 16384
    """Feature maps of the generator at resolution r are min(channel_base / r, channel_max). Default: Aurora."""
    channel_max: Count = 512
    """Largest number of feature maps of the generator. Default: ours; Aurora takes 1600."""
    heads: Count = 8
    """Heads of the attention. Default: Aurora."""
    head_dim: Count | None = 64
    """Dimension of each head; unset: the feature maps over gan.heads. Default: Aurora."""
    l2_attention: bool = True
    """Attend by distance, otherwise by inner product. Default: Aurora."""
    tie: bool = False
    """Queries of the attention by distance are its keys. Default: Aurora."""
    scale_in: bool = False
    """Scale queries and keys in place of the logits; of attention by distance it is the same. Default: Aurora."""
    gated: bool = True
    """Gate the feed-forward layers (GEGLU). Default: Aurora."""
    deformable: bool = False
    """Let the convolutions below 32 pixels move their taps. Default: ours, for speed; Aurora does."""
    fourier: bool = True
    """Begin with waves that w moves, otherwise with a constant. Default: Aurora."""
    residual_gain: Ratio = 0.4
    """Factor of what leaves a residual block. Default: Aurora."""
    attention_gain: Ratio = 0.3
    """Factor of what leaves an attention block. Default: Aurora."""
    attention_lr: Ratio = 1.0
    """Factor of optim.lr_g for attention and experts; 0.2 where they are unstable. Default: ours."""
    conv_clamp: Clamp | None = None
    """Clamp of the layers' outputs in both networks; unset for none. Default: Aurora."""
    w_avg_beta: Fraction = 0.998
    """Decay per generator step of the running mean of w that truncation uses. Default: ours, as StyleGAN3."""
    d_channel_base: Count = 32768
    """channel_base of the discriminator. Default: ours."""
    d_channel_max: Count = 512
    """channel_max of the discriminator. Default: ours."""
    d_mapping_layers: Depth = 8
    """Depth of the discriminator's label mapping. Default: ours, as StyleGAN2."""
    mbstd_group: Count = 4
    """Group size of the minibatch standard deviation, in images. Default: ours, as StyleGAN2."""
    mbstd_channels: CountOrZero = 1
    """Channels of the minibatch standard deviation; 0 turns it off. Default: ours, as StyleGAN2."""
    half_resolutions: CountOrZero = 4
    """Highest resolutions that run in half precision when perf.precision is fp16 or bf16; norms, routers, softmax and
    distances do not. Default: ours, as ADA."""


@dataclass(frozen=True)
class AuroraLoss(LossSettings):
    """The non-saturating logistic objective with R1, all of it ours: Aurora's is not public."""

    r1_gamma: Weight | Schedule = 0.0032
    """Weight of the R1 penalty, a number or a schedule; 0 = off. Default: ours, ADA's rule of thumb
    0.0002 * resolution^2 / batch at 64 pixels and 256 images; try 10 and 100 times that."""
    r1_interval: CountOrZero = 16
    """Iterations between two R1 steps; 0 = off. Default: StyleGAN2, and GigaGAN (arXiv 2303.05511)."""
    balance_weight: Weight = 0.001
    """Weight of the load-balancing loss, summed over the layers with experts. Default: Aurora."""
    router_weight: Weight = 0.001
    """Weight of the routers' squared log-sum-exp, which keeps their logits small. Default: Aurora."""


@dataclass(frozen=True)
class StyleGan2Gan(GanSettings):
    """The two networks (StyleGAN2)."""

    family: Literal["stylegan2"] = "stylegan2"
    """Which kind of model is trained. Default: ours."""
    architecture_g: Literal["skip", "resnet", "orig"] = "skip"
    """Generator: how the blocks join. Default: StyleGAN2."""
    architecture_d: Literal["skip", "resnet", "orig"] = "resnet"
    """Discriminator: how the blocks join. Default: StyleGAN2; ADA's `cifar` takes orig."""
    z_dim: Width = 512
    """Dimension of the latent z. Default: StyleGAN2."""
    w_dim: Width = 512
    """Dimension of the intermediate latent w. Default: StyleGAN2."""
    mapping_layers: Depth = 8
    """Depth of the generator's mapping network. Default: StyleGAN2; ADA's `auto` and `cifar` take 2."""
    d_mapping_layers: Depth = 8
    """Depth of the discriminator's label mapping. Default: StyleGAN2; ADA keeps 8 in every configuration."""
    mapping_lr_multiplier: Ratio = 0.01
    """Learning-rate multiplier of both mapping networks. Default: StyleGAN2."""
    channel_base: Count = 32768
    """Feature maps at resolution r are min(channel_base / r, channel_max). Default: StyleGAN2 at 1024 pixels."""
    channel_max: Count = 512
    """Largest number of feature maps of a layer. Default: StyleGAN2."""
    noise: bool = True
    """Add per-pixel noise in the generator's layers. Default: StyleGAN2."""
    mbstd_group: Count = 4
    """Group size of the minibatch standard deviation, in images. Default: StyleGAN2; ADA's `cifar` takes 32."""
    mbstd_channels: CountOrZero = 1
    """Channels of the minibatch standard deviation; 0 turns it off. Default: StyleGAN2."""
    mbstd_by_class: bool = False
    """Fill the groups of the minibatch standard deviation with one class each, as far as the batch allows, so that the
    discriminator sees a class collapse; fakes then take the labels of the reals. Default: StyleGAN2 mixes classes."""
    freeze_d: CountOrZero = 0
    """Layers of the discriminator, counted from the image down, that keep the weights they start with; 0 = none. For a
    run that starts from other weights (run.init_from). Default: ADA (Mo et al., arXiv 2002.10964).
    (stylegan2-ada: --freezed)"""
    half_resolutions: CountOrZero = 4
    """Highest resolutions that run in half precision when perf.precision is fp16 or bf16. Default: ADA."""
    conv_clamp: Clamp | None = 256.0
    """Clamp of the convolutions' outputs; unset for none. Default: ADA."""
    w_avg_beta: Fraction = 0.995
    """Decay per generator step of the running mean of w that truncation uses. Default: ADA."""


@dataclass(frozen=True)
class StyleGan2Loss(LossSettings):
    """The StyleGAN2 objective."""

    r1_gamma: Weight | Schedule = 10.0
    """Weight of the R1 penalty, a number or a schedule; 0 = off, though Adam's correction for it stays. ADA's rule of
    thumb is 0.0002 * resolution^2 / batch. Default: StyleGAN2. (stylegan2-ada: --gamma)"""
    r1_interval: CountOrZero = 16
    """Iterations between two R1 steps; 0 = off. Default: StyleGAN2."""
    path_length_weight: Weight = 2.0
    """Weight of the path-length penalty; 0 = off, though Adam's correction for it stays (ADA). Default: StyleGAN2."""
    path_length_interval: CountOrZero = 4
    """Iterations between two path-length steps; 0 = off, without Adam's correction. Default: StyleGAN2."""
    path_length_decay: Fraction = 0.01
    """Step of the running mean of path lengths. Default: StyleGAN2."""
    path_length_shrink: Count = 2
    """The path-length step uses 1/shrink of the batch. Default: StyleGAN2."""
    style_mixing_prob: Fraction = 0.9
    """Probability that an image takes its later styles from a second latent. Default: StyleGAN2."""


@dataclass(frozen=True)
class UNetOptions:
    """The network, and with it the kind of noise: timesteps of a schedule, or sigmas where it is EDM's."""

    network: Literal["unet2d", "adm", "edm", "edm_dhariwal"] = "unet2d"
    """diffusers' UNet2DModel, ADM's UNet (arXiv 2105.05233), or EDM's SongUNet or DhariwalUNet with its preconditioning
    (arXiv 2206.00364). Default: ours."""
    block_out_channels: tuple[Count, ...] = (128, 256, 256, 256)
    """Feature maps at each resolution, from the full one down by halves; of EDM's multiples of the first. Default:
    DDPM."""
    layers_per_block: Depth = 2
    """Residual blocks at each resolution. Default: DDPM."""
    attention: tuple[Count, ...] = (16,)
    """Resolutions, in pixels, with attention; the lowest one always has it in the middle block. Default: DDPM."""
    attention_head_dim: Count = 64
    """Channels of an attention head; edm has one head, edm_dhariwal has 64. Default: ADM (Dhariwal and Nichol, arXiv
    2105.05233)."""
    norm_groups: Count = 32
    """Groups of the group normalization; divides every number of feature maps. Default: DDPM, and of all but unet2d the
    only choice."""
    dropout: Beta = 0.0
    """Probability of dropping a feature. Default: ours; DDPM takes 0.1."""


@dataclass(frozen=True)
class DenoiserGan(UNetOptions, GanSettings):
    """A diffusion model in place of a GAN."""

    family: Literal["denoiser"] = "denoiser"
    """Which kind of model is trained. Default: ours."""


@dataclass(frozen=True)
class DenoiserLoss(LossSettings):
    """The objective of a diffusion model and how it is approached; "DDPM" is the CIFAR-10 model of arXiv 2006.11239."""

    num_timesteps: Timesteps = 1000
    """Timesteps of the noise schedule. Default: DDPM."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """The noise schedule, by diffusers' names; squaredcos_cap_v2 is the cosine one. Default: DDPM."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean image, or v. Default: DDPM."""
    label_dropout: Beta = 0.0
    """Probability that one of EDM's networks is not told the class of an image. Default: EDM."""
    ln_sigma_mean: LogSigma = -1.2
    """Mean of the normal ln sigma of EDM's networks. Default: EDM."""
    ln_sigma_std: LogSigmaSpread = 1.2
    """Standard deviation of that. Default: EDM."""
    lr_warmup_kimg: KimgOrZero = 100.0
    """Thousands of images over which optim.lr_g rises from 0. Default: ours; DDPM takes 640."""
    lr_decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after that; cosine falls to 0 at run.kimg. Default: DDPM."""
    grad_clip: Ratio = 1.0
    """Largest norm of the gradient; a longer one is scaled down. Default: DDPM."""
    ema_decay: Fraction = 0.9999
    """Decay per step of the averaged weights, (1 + step) / (10 + step) while that is smaller. Default: DDPM."""
    sample_rows: Count = 8
    """Most rows of a sheet of samples, each of which takes many passes. Default: ours."""
    sample_steps: Count = 50
    """Steps per sample: DDIM's (Song et al., arXiv 2010.02502), or Heun's of EDM, two passes each. Default: DDIM's."""
    save_precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the saved scorer. Default: ours."""


@dataclass(frozen=True)
class R3GanGan(GanSettings):
    """The two networks (R3GAN, arXiv 2501.05441), mirrors of each other; lists go from 4 pixels up by doublings."""

    family: Literal["r3gan"] = "r3gan"
    """Which kind of model is trained. Default: ours."""
    z_dim: Width = 64
    """Dimension of the latent z, and of the generator's label embedding. Default: R3GAN."""
    widths: tuple[Width, ...] = (768, 768, 768, 768)
    """Feature maps of each stage; the last one is that of the images. Default: R3GAN on CIFAR-10."""
    cardinalities: tuple[Width, ...] = (96, 96, 96, 96)
    """Groups of the 3x3 convolutions of each stage. Default: R3GAN on CIFAR-10."""
    blocks: tuple[Depth, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage. Default: R3GAN."""
    expansion: Count = 2
    """Feature maps inside a residual block over those of its stage. Default: R3GAN."""
    half_resolutions: CountOrZero = 3
    """Highest resolutions that run in half precision when perf.precision is fp16 or bf16. Default: R3GAN, CIFAR-10."""


@dataclass(frozen=True)
class R3GanLoss(LossSettings):
    """The relativistic objective with both penalties (R3GAN)."""

    gamma: Weight | Schedule = 0.05
    """Weight of R1 and of R2, a number or a schedule. Default: R3GAN's at the start on CIFAR-10."""
    penalty: Literal["exact", "finite_difference"] = "exact"
    """Squared gradients by a second derivative, or as the mean of a squared difference of logits along one random
    direction for each image: no second derivative, the same mean, as many FLOPs, and a noisier gradient (cosine 0.5 to
    0.6 to the exact one of the penalty, bench/results/penalties.md). Default: R3GAN (exact)."""
    step: Ratio = 0.01
    """Length per pixel of the direction of a finite difference. Default: ours."""


@dataclass(frozen=True)
class BigGanGan(GanSettings):
    """The two networks (BigGAN, arXiv 1809.11096), for images of 16 to 256 pixels with classes. "BigGAN" is the
    ImageNet configuration of its authors' public code, ajbrock/BigGAN-PyTorch, which begins at 32 pixels."""

    family: Literal["biggan"] = "biggan"
    """Which kind of model is trained. Default: ours."""
    z_dim: Width = 120
    """Dimension of the latent z; a hierarchical one is rounded down to equal pieces. Default: BigGAN."""
    hierarchical: bool = True
    """Give each block of the generator a piece of z of its own. Needs gan.shared_dim. Default: BigGAN."""
    shared_dim: CountOrZero = 128
    """Dimension of the embedding of classes that all norms of the generator share; 0 = each norm has its own table.
    Default: BigGAN."""
    width_g: Count = 96
    """Feature maps of the generator at the full resolution; a quarter of all of them at 16 and 32 pixels. Default:
    BigGAN."""
    width_d: Count = 96
    """Feature maps of the discriminator's first block; a quarter of all of them at 16 and 32 pixels. Default:
    BigGAN."""
    attention_g: tuple[Count, ...] = (64,)
    """Resolutions of the generator, in pixels, with attention behind their block. Default: BigGAN."""
    attention_d: tuple[Count, ...] = (64,)
    """Those of the discriminator; at 32 pixels 16 means all its blocks, as in the public code. Default: BigGAN."""
    init: Literal["orthogonal", "normal"] = "orthogonal"
    """How weights begin: orthogonal, or normal with standard deviation 0.02. Default: BigGAN; on CIFAR-10 normal."""
    spectral_eps: Epsilon = 1e-6
    """Least length of a vector that spectral norm divides by. Default: BigGAN; on CIFAR-10 1e-8."""
    norm_eps: Epsilon = 1e-5
    """Epsilon of the generator's conditional batch norms. Default: BigGAN's code; the paper has 1e-4."""
    sync_batch_norm: bool = False
    """Normalise the images of all processes together, instead of those of each process. Default: BigGAN."""
    sampling: Literal["standing", "running"] = "standing"
    """What samples are normalised with: the mean statistics of gan.standing_passes batches that are drawn with the
    averaged weights, or running averages from the training. Default: the paper's."""
    standing_passes: Count = 16
    """Batches behind the standing statistics. Default: BigGAN's code."""
    standing_batch: Count = 64
    """Images in each of those batches. Default: ours."""


@dataclass(frozen=True)
class BigGanLoss(LossSettings):
    """The objective (BigGAN). The average follows loss.ema_decay: optim.ema_kimg and optim.ema_rampup do nothing."""

    adversarial: Literal["hinge", "logistic"] = "hinge"
    """Hinge loss, or the non-saturating logistic one. Default: BigGAN."""
    d_steps: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 1
    """Discriminator steps per generator step, each with images of its own. Default: BigGAN; 4 on CIFAR-10."""
    split_d: bool = False
    """Show fakes and reals to the discriminator one after the other instead of together: less memory, and spectral norm
    makes two power iterations per step. Default: BigGAN."""
    ortho_g: Weight = 0.0
    """Weight of the generator's orthogonal regularization. Default: BigGAN's code; the paper has 1e-4."""
    ortho_d: Weight = 0.0
    """Weight of the discriminator's. Default: BigGAN."""
    ortho_form: Literal["off_diagonal", "full"] = "off_diagonal"
    """Rows of each weight are to be orthogonal; full: and of length 1. Default: BigGAN."""
    ema_decay: Fraction = 0.9999
    """Decay per iteration of the averaged generator. Default: BigGAN."""
    ema_start: CountOrZero = 20000
    """Iteration with which the average begins; until then it is a copy. Default: BigGAN; 1000 on CIFAR-10."""


class FamilySettings(NamedTuple):
    """The two groups of one family."""

    gan: type[GanSettings]
    loss: type[LossSettings]


DEFAULT_FAMILY = "stylegan2"
"""Where nothing names one, as in files of before there were others."""

FAMILY_SETTINGS: dict[str, FamilySettings] = {
    "aurora": FamilySettings(AuroraGan, AuroraLoss),
    "biggan": FamilySettings(BigGanGan, BigGanLoss),
    "consistency": FamilySettings(ConsistencyGan, ConsistencyLoss),
    "denoiser": FamilySettings(DenoiserGan, DenoiserLoss),
    "r3gan": FamilySettings(R3GanGan, R3GanLoss),
    "stylegan2": FamilySettings(StyleGan2Gan, StyleGan2Loss),
    "toy": FamilySettings(ToyGan, ToyLoss),
    "vae": FamilySettings(VaeGan, VaeLoss),
}
"""By the values of gan.family."""
