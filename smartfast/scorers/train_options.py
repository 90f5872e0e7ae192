"""The options of `smartfast train-scorer`, each with its help text, as in smartfast/config.py.

"DDPM" is the CIFAR-10 model of Ho et al., "Denoising diffusion probabilistic models" (arXiv 2006.11239).
"""

from dataclasses import dataclass, field
from typing import Literal

from smartfast.config.schema import DataConfig


@dataclass(frozen=True)
class UNetOptions:
    """The network (diffusers' UNet2DModel)."""

    block_out_channels: tuple[int, ...] = (128, 256, 256, 256)
    """Feature maps at each resolution, from the full one down by halves. Default: DDPM."""
    layers_per_block: int = 2
    """Residual blocks at each resolution. Default: DDPM."""
    attention: tuple[int, ...] = (16,)
    """Resolutions, in pixels, with attention; the lowest one always has it in the middle block. Default: DDPM."""
    attention_head_dim: int = 64
    """Channels of an attention head. Default: ADM (Dhariwal and Nichol, arXiv 2105.05233)."""
    norm_groups: int = 32
    """Groups of the group normalization; divides every number of feature maps. Default: DDPM."""
    dropout: float = 0.0
    """Probability of dropping a feature. Default: ours; DDPM takes 0.1."""


@dataclass(frozen=True)
class TrainScorerOptions:
    """Training of a diffusion model on one's own images, to serve as a scorer."""

    dir: str = "runs/scorer"
    """Folder of the run; the scorer is dir/scorer. The same command again resumes. Default: ours."""
    seed: int = 0
    """Seed of every random number. Default: ours."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training images; data.labels makes the scorer class-conditional."""
    unet: UNetOptions = field(default_factory=UNetOptions)
    """The network."""
    holdout: int = 0
    """Images, spread evenly over the data set, kept out of the training to measure the loss on. Default: ours."""
    kimg: float = 20000.0
    """Length of the training, in thousands of images. Default: ours; DDPM takes 102400."""
    batch: int = 128
    """Images per step over all processes. Default: DDPM."""
    lr: float = 2e-4
    """Adam's learning rate. Default: DDPM."""
    lr_warmup_kimg: float = 100.0
    """Thousands of images over which the learning rate rises from 0. Default: ours; DDPM takes 640."""
    lr_decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after that; cosine falls to 0 at `kimg`. Default: DDPM."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; a longer one is scaled down. Default: DDPM."""
    ema_decay: float = 0.9999
    """Decay per step of the averaged weights, (1 + step) / (10 + step) while that is smaller. Default: DDPM."""
    num_timesteps: int = 1000
    """Timesteps of the noise schedule. Default: DDPM."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """The noise schedule, by diffusers' names; squaredcos_cap_v2 is the cosine one. Default: DDPM."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean image, or v. Default: DDPM."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the training; bf16 is Accelerate's mixed precision. Default: ours."""
    save_precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the saved scorer. Default: ours."""
    snapshot_kimg: float = 250.0
    """Thousands of images between two snapshots: the scorer, the state to resume from, and a sample grid."""
    sample_rows: int = 8
    """Rows of the sample grid; a class-conditional grid has one column per class, up to 16. Default: ours."""
    sample_steps: int = 50
    """DDIM steps per sample (Song et al., arXiv 2010.02502). Default: theirs."""
