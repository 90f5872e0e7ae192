"""The configuration: one frozen dataclass per concern, all of them data and nothing else.

The groups `gan` and `loss` belong to the family of networks that gan.family names (smartfast/config/families.py).

YAML files in configs/presets/ hold only what differs from the defaults below; dotted command-line options
(`--smart.frequency 4`) override them. The docstring under a field is its help text: what it is, its
unit, and where the default comes from. "ADA" is stylegan2-ada-pytorch's `auto` configuration and
"SMaRt" is the paper's table of hyper-parameters (arXiv 2311.18208).
"""

from dataclasses import dataclass, field
from typing import Literal

from smartfast.config.augment import AugmentConfig
from smartfast.config.families import StyleGan2Gan, StyleGan2Loss
from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.ranges import (
    Beta,
    Count,
    CountOrZero,
    Epsilon,
    FilePath,
    HangTime,
    Hours,
    Iterations,
    Kimg,
    Processes,
    Rate,
    Ratio,
    Resolution,
    Samples,
    Seed,
    Share,
    Threads,
    Weight,
)
from smartfast.config.schedule import Schedule
from smartfast.config.scorer import ScorerOptions
from smartfast.config.spaces import FeatureSpace


@dataclass(frozen=True)
class RunConfig:
    """Where the run goes and how long it is."""

    dir: FilePath = "runs/train"
    """Folder of the run. Training resumes from its newest complete checkpoint. Default: ours.
    (stylegan2-ada: --outdir)"""
    seed: Seed = 0
    """Seed of every random number of the run. Default: ADA. (stylegan2-ada: --seed)"""
    init_from: FilePath | None = None
    """Weights to start from: a run folder (its newest checkpoint), RUN@best, a checkpoint folder, a folder of
    `smartfast convert` or a file of weights. What fits by name and shape is loaded, the rest is new; resolution, class
    count and widths may differ. It turns optim.ema_rampup off, as ADA does. A run that is resumed does not read it
    again. Default: none.
    (stylegan2-ada: --resume)"""
    kimg: Kimg = 25000.0
    """Length of the training, in thousands of real images shown to the discriminator. Default: ADA.
    (stylegan2-ada: --kimg)"""
    max_hours: Hours | None = None
    """Hours after its start at which this process saves and ends with status 3, as after a signal; the same command
    goes on. Less than a queue's limit, by what the start and a snapshot take. Default: none."""
    hang_sec: HangTime | None = 240.0
    """Seconds without a sign of life of another process of the run after which this one ends, for its launcher to begin
    anew; a process is named after a fifth of them. Unset: never. Default: ours."""
    tick_kimg: Kimg = 4.0
    """Images between two status lines, in thousands. Default: ADA."""
    snapshot_ticks: Count = 50
    """Ticks between two checkpoints with their sample grids. Default: ADA. (stylegan2-ada: --snap)"""
    keep_checkpoints: Count = 3
    """Number of newest checkpoints kept on disk; older ones are deleted. Default: ours."""
    keep_best: str | None = None
    """Metric by which the best checkpoint of those that are evaluated is kept beside the newest ones, for RUN@best:
    fid, or a name in metrics.jsonl such as recall_digits. Default: none."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Experiment tracker that Accelerate writes to, beside metrics.jsonl. Default: ours."""
    max_bad_steps: Count = 20
    """Consecutive steps with a non-finite gradient after which the run stops. Default: ours."""
    allow_changes: bool = False
    """Resume under settings that shift the arithmetic of the run, which are refused otherwise; each one is printed, and
    the older config.yaml stays as config.<kimg>.yaml. Default: ours."""
    dry_run: bool = False
    """Print the resolved configuration, the networks and the estimated cost; train nothing.
    (stylegan2-ada: --dry-run)"""


@dataclass(frozen=True)
class DataConfig:
    """The training images."""

    path: FilePath = "digits"
    """`digits` (bundled), a folder of images or of webdataset's .tar shards, a stylegan2/3 data-set .zip, an .npz,
    `hf:owner/name[:split]`, or `plane:ring` and its like (points, for gan.family toy).
    (stylegan2-ada: --data)"""
    resolution: Resolution | None = None
    """Height and width in pixels that the images must have; unset takes the images' own. `digits` is enlarged to it."""
    labels: bool = False
    """Train with the labels, classes or vectors of numbers (sub-folders, dataset.json or the file's own). Default: ADA.
    (stylegan2-ada: --cond)"""
    classes: Count | None = None
    """Number of classes, or numbers of a label vector, that the images must have with data.labels; unset takes the
    images' own."""
    mirror: bool = False
    """Flip each real image horizontally with probability 1/2. Default: ADA. (stylegan2-ada: --mirror)"""
    cache: Literal["auto", "device", "stream"] = "auto"
    """Keep the images on the device as uint8, or stream them; auto keeps what fits in a quarter of the memory."""
    workers: Processes = 3
    """Loader processes when streaming. Default: ADA. (stylegan2-ada: --workers)"""
    holdout: CountOrZero = 0
    """Images, spread evenly over the data set, that are kept out of the training. Default: ours."""


@dataclass(frozen=True)
class SmartConfig:
    """Score-matching regularity (SMaRt)."""

    scorer: FilePath | None = None
    """Frozen diffusion model: `digits` (bundled), or of a format: diffusers (UNet2DModel folder or hub id), adm (.pt of
    guided-diffusion or consistency_models), edm (.pkl of EDM or EDM2), converted (folder of `smartfast convert` or
    train-scorer), analytic (safetensors, a mixture of Gaussians). `adm:path` says which instead of having it
    recognised. `plane:ring` is the exact one of that distribution."""
    scorer_options: ScorerOptions = field(default_factory=ScorerOptions)
    self_check: bool = True
    """Compare, at the start, how well the scorer finds noise in some of the images with how well it would, were its
    file or the images read otherwise, and stop where another reading is clearly better. Default: ours."""
    null_class: CountOrZero | None = None
    """Last class index of the scorer where it was trained as `no class`, or one more for EDM's, where no class
    is a vector of zeros; it then also fits a GAN without labels."""
    weight: Weight | Schedule = 0.1
    """lambda_score, the weight of the score term, a number or a schedule. At 0 it is computed all the same, for its
    distance; smart.frequency 0 spares it. Default: SMaRt (0.01 on CIFAR-10)."""
    balance: Share | None = None
    """Share that the term's gradient at the images is to have of the whole loss's: smart.weight is where the weight
    begins, and it moves on after every step with the term. Unset: it stays. Default: ours."""
    timesteps: tuple[CountOrZero, CountOrZero] | None = None
    """First and last timestep t (both drawn) of the scorer's schedule, which mean a noise only together with it."""
    noise_to_signal: tuple[Ratio, Ratio] | None = None
    """The same interval as a range of sigma_t / alpha_t, which means the same under every schedule. SMaRt, by the
    schedules of its scorers: [0.095, 0.13] at 256 pixels, [0.051, 0.068] at 64, [0.005, 0.0078] on CIFAR-10."""
    frequency: CountOrZero = 8
    """Generator steps between two score terms; 0 = off. A diffusion model (denoiser) takes 1 to learn from the scorer
    in this interval of noise instead of from the noise itself. Default: SMaRt."""
    distance: Literal["plain", "eps"] = "plain"
    """Of the scorer's prediction: plain is its mean squared error, in eps, x0 or v, whichever it predicts; eps is that
    error as one in eps, (alpha / sigma)^2 times the one in x0, alpha^2 times the one in v. Default: SMaRt (plain)."""
    separate_pass: bool = False
    """Draw fresh latents and run a generator pass of its own instead of scoring g_main's fakes. Default: ours."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the scorer; auto is bf16 on a GPU that has it, else fp32. Default: ours."""
    batch_fraction: Share = 1.0
    """Share of the fakes of each round, drawn by lot, that the score term scores, averaging over those: cheaper in
    proportion, a noisier gradient of the same mean. Default: SMaRt (all)."""
    through_network: bool = True
    """Send the gradient through the scorer; false stops it at the scorer's estimate of the clean image and passes the
    residual on, as score distillation does: half the cost, and another gradient of the same loss, several times as
    long, which asks for a lower smart.weight. Default: SMaRt."""
    crop: Count | None = None
    """Score a square of so many pixels of each fake, at a random place, in place of all of it, by a scorer of the
    images' resolution or of the squares': cheaper by the area, and blind to what is larger. Default: SMaRt (none)."""
    downscale: Count = 1
    """Reduce the fakes by this factor before scoring, for a scorer of the lower resolution: cheaper, and blind to
    detail that the reduction removes. Default: SMaRt (1, none)."""


@dataclass(frozen=True)
class OptimConfig:
    """Batch, optimizers and the averaged generator."""

    batch: Count = 32
    """Images per iteration over all processes. Default: ours; ADA depends on the resolution.
    (stylegan2-ada: --batch)"""
    batch_gpu: Count | Literal["auto"] | None = None
    """Images per process at a time; smaller than batch / processes accumulates gradients. Unset: no accumulation; auto:
    the most that the memory holds by the forecast of run.dry_run."""
    lr_g: Rate | Schedule = 0.0025
    """Adam's learning rate of the generator, a number or a schedule, which may end at 0. Default: ADA."""
    lr_d: Rate | Schedule = 0.0025
    """Adam's learning rate of the discriminator, a number or a schedule, which may end at 0. Default: ADA."""
    betas: tuple[Beta | Schedule, Beta | Schedule] = (0.0, 0.99)
    """Adam's betas, before the lazy correction, numbers or schedules. Default: StyleGAN2."""
    eps: Epsilon = 1e-8
    """Adam's epsilon. Default: StyleGAN2."""
    ema_kimg: Kimg | Schedule = 10.0
    """Half-life of the averaged generator, in thousands of images, a number or a schedule. Default: StyleGAN2."""
    ema_rampup: Weight | None = 0.05
    """Half-life is at most this fraction of the images seen so far; unset for none. Default: ADA."""

    def images_at_a_time(self, local: int) -> int:
        """Images of a round of gradient accumulation, of `local` per process and iteration."""
        return self.batch_gpu if isinstance(self.batch_gpu, int) else local


@dataclass(frozen=True)
class MetricsConfig:
    """Quality metrics on samples of the averaged generator."""

    names: tuple[Literal["fid", "kid", "isc", "prc", "diversity", "manifold"], ...] = ("fid",)
    """fid, kid, isc (inception score), prc (precision, recall), diversity (within-class), manifold (off, distance,
    wasserstein, covered; of plane). The results are named after
    their features too, such as fd_digits; fid, kid and isc alone mean inception. Default: ADA (FID).
    (stylegan2-ada: --metrics)"""
    every_ticks: CountOrZero = 50
    """Ticks between two evaluations; 0 = never. Default: ADA."""
    where: Literal["inline", "beside"] = "inline"
    """inline: training waits, and all its processes compute; beside: a process of its own computes while training goes
    on, on a GPU that the run does not use if there is one, else on the same or with the lowest claim to the cores. At
    most one waits. Default: ours."""
    samples: Samples = 50000
    """Generated images per evaluation. Default: the field's FID-50k."""
    batch: Count = 64
    """Images at a time through the generator and the feature extractor. Default: ADA."""
    features: FeatureSpace = "inception"
    """Feature space: torch-fidelity's InceptionV3, the bundled digit classifier, one of its kind that
    `python -m smartfast.metrics.digits.classifier` trained on your images (classifier), the coordinates of points
    (plane), or VGG16, CLIP and DINOv2 as torch-fidelity takes them, each with a file of metrics.weights."""
    weights: FilePath | None = None
    """Local file with the weights of the features: for inception on machines without internet, for classifier, vgg16,
    clip-* and dinov2-* always."""
    reference: FilePath | None = None
    """Statistics to take the Fréchet distance to, in place of those of the run's images: a published .npz with mu and
    sigma of the same features, as those of EDM and of ADM. The other metrics compare with the run's images."""


@dataclass(frozen=True)
class PerfConfig:
    """Speed. Nothing here changes what is computed beyond rounding."""

    preset: Literal["auto", "safe"] = "auto"
    """What the settings of this group are that nobody sets. auto: on a GPU compile, cuda_graphs, channels_last and the
    preferred arithmetic, each as far as the machine has it; on a CPU that arithmetic alone, if it has it. safe: none of
    them, in fp32. Default: ours."""
    preferred: Literal["fp32", "tf32", "fp16", "bf16"] | None = None
    """Arithmetic under preset auto where precision is not set; where the device lacks it, the next that it has."""
    kernels: Literal["auto", "triton", "aten", "reference"] = "auto"
    """Implementation of the ops; auto takes Triton on a GPU where an op has it, else plain PyTorch (aten, also called
    reference); triton does so too, whatever was measured. Default: ours."""
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    """Arithmetic of the networks; fp16 and bf16 apply to gan.half_resolutions, or to all of BigGAN's blocks,
    tf32 to the rest. Default: ours. (stylegan2-ada: --fp32, --allow-tf32)"""
    verify: Literal["auto", "off"] = "auto"
    """Check every Triton kernel on this GPU before the first run that needs it, at the run's shapes, against plain
    PyTorch; one that fails is not used. auto: where there is a GPU. Default: ours."""
    tune: Literal["auto", "off"] = "auto"
    """Time the ways to compute every op at the run's shapes on this GPU, for at most 30 s, before the first run that
    needs them, and take the fastest of those that are right. auto: where there is a GPU. Default: ours."""
    compile: bool | Literal["max-autotune", "background"] | None = None
    """torch.compile every phase as one graph: minutes once, seconds in later runs. max-autotune also times variants of
    kernels while compiling; background begins eagerly while a process of its own compiles, and goes on compiled. Unset:
    as preset says. Default: ours."""
    cuda_graphs: bool | None = None
    """Capture each phase, with its optimizer step, and replay it as one CUDA graph; with several processes two, around
    the average over processes. Needs a GPU. Unset: as preset says. Default: ours."""
    channels_last: bool | None = None
    """Keep convolution weights, and with them activations, in NHWC memory order. Unset: as preset says. Default: ours.
    (stylegan2-ada: --nhwc)"""
    profile: Iterations = 0
    """Iterations to trace with torch.profiler, once everything is compiled and captured; 0 = none. `smartfast profile`
    does only that. Default: ours."""
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    """Attention in the scorer: PyTorch's scaled_dot_product_attention (auto, sdpa) or xformers. Default: ours."""
    cpu_threads: Threads | None = None
    """Threads per process on a CPU; unset: physical cores / processes (`accelerate launch` alone would set 1)."""


@dataclass(frozen=True)
class Config:
    """The whole configuration of a training run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gan: GanSettings = field(default_factory=StyleGan2Gan)
    loss: LossSettings = field(default_factory=StyleGan2Loss)
    smart: SmartConfig = field(default_factory=SmartConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    perf: PerfConfig = field(default_factory=PerfConfig)
