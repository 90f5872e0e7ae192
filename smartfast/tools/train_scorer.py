"""`smartfast train-scorer`: trains a diffusion model on one's own images, for use as a scorer.

The run is one of `smartfast train` with gan.family denoiser, under options of its own; beside what every run leaves,
its folder has scorer/, the averaged weights as a model for smart.scorer. A resumed run repeats what an
uninterrupted one computes (not with dropout, whose random numbers are torch's own).

With a teacher, another scorer, it is a small student for the noise of one interval, which makes a score term cheap.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smartfast.config.families import DenoiserGan, DenoiserLoss, UNetOptions
from smartfast.config.ranges import (
    Beta,
    Count,
    CountOrZero,
    FilePath,
    Fraction,
    Kimg,
    KimgOrZero,
    LogSigma,
    LogSigmaSpread,
    Rate,
    Ratio,
    Seed,
    Threads,
    Timesteps,
    in_range,
)
from smartfast.config.schema import Config, DataConfig, MetricsConfig, OptimConfig, PerfConfig, RunConfig, SmartConfig
from smartfast.config.scorer import ScorerOptions
from smartfast.core.interruption import Interruption
from smartfast.errors import UserError
from smartfast.families.denoiser.family import SCORER_FOLDER
from smartfast.run.launch import launch


@dataclass(frozen=True)
class SpeedOptions:
    """Speed, as perf of `smartfast train`."""

    preset: Literal["auto", "safe"] = "auto"
    """What compile and cuda_graphs are where they are unset: auto switches them on on a GPU, safe never."""
    compile: bool | Literal["max-autotune"] | None = None
    """torch.compile the training step as one graph: minutes once, seconds in later runs. Default: ours."""
    cuda_graphs: bool | None = None
    """Capture the training step and replay it as one CUDA graph. Needs a GPU. Default: ours."""
    channels_last: bool = True
    """Keep convolution weights, and with them activations, in NHWC memory order. Default: ours."""
    cpu_threads: Threads | None = None
    """Threads per process on a CPU; unset: physical cores / processes."""


@dataclass(frozen=True)
class TrainScorerOptions:
    """Training of a diffusion model on one's own images, to serve as a scorer."""

    dir: FilePath = "runs/scorer"
    """Folder of the run; the scorer is dir/scorer. The same command again resumes. Default: ours."""
    seed: Seed = 0
    """Seed of every random number. Default: ours."""
    init_from: FilePath | None = None
    """Weights to start from: a run folder of train-scorer, a checkpoint folder or one for smart.scorer. What fits by
    name and shape is loaded, the rest is new. A run that is resumed does not read it again. Default: none."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training images; data.labels makes the scorer class-conditional."""
    teacher: FilePath | None = None
    """Scorer to learn from in place of the noise itself, as smart.scorer; prediction_type and the noise schedule are to
    be its own. The result is for the interval alone. Default: none."""
    teacher_options: ScorerOptions = field(default_factory=ScorerOptions)
    teacher_null_class: CountOrZero | None = None
    """As smart.null_class of the teacher. Default: none."""
    interval: tuple[Ratio, Ratio] | None = None
    """Noise to signal, sigma_t / alpha_t, that a student of the teacher learns: that of smart.noise_to_signal in the
    runs that it is for."""
    self_check: bool = True
    """Compare the teacher with other readings of its file at the start, as smart.self_check. Default: ours."""
    unet: UNetOptions = field(default_factory=UNetOptions)
    """The network; with a teacher and no option of its own but the kind it has 64, 128, 128 and 128 feature maps, one
    block at each resolution and no attention but in the middle."""
    holdout: CountOrZero = 0
    """Images, spread evenly over the data set, kept out of the training to measure the loss on, as data.holdout.
    Default: ours."""
    kimg: Kimg = 20000.0
    """Length of the training, in thousands of images. Default: ours; DDPM takes 102400."""
    batch: Count = 128
    """Images per step over all processes. Default: DDPM."""
    lr: Rate = 2e-4
    """Adam's learning rate. Default: DDPM."""
    lr_warmup_kimg: KimgOrZero = 100.0
    """Thousands of images over which the learning rate rises from 0. Default: ours; DDPM takes 640."""
    lr_decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after that; cosine falls to 0 at `kimg`. Default: DDPM."""
    grad_clip: Ratio = 1.0
    """Largest norm of the gradient; a longer one is scaled down. Default: DDPM."""
    ema_decay: Fraction = 0.9999
    """Decay per step of the averaged weights, (1 + step) / (10 + step) while that is smaller. Default: DDPM."""
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
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    """Arithmetic of the training; fp16 and bf16 are mixed precision (torch.autocast). Default: ours."""
    save_precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the saved scorer. Default: ours."""
    snapshot_kimg: Kimg = 250.0
    """Thousands of images between two snapshots: the scorer, the state to resume from, and a sample grid."""
    sample_rows: Count = 8
    """Rows of the sample grid; a class-conditional grid has one column per class, up to 16. Default: ours."""
    sample_steps: Count = 50
    """Steps per sample: DDIM's (Song et al., arXiv 2010.02502), or Heun's of EDM, two passes each. Default: DDIM's."""
    tick_kimg: Kimg = 4.0
    """Thousands of images between two status lines. Default: ADA."""
    keep_checkpoints: Count = 3
    """Number of newest checkpoints kept on disk; older ones are deleted. Default: ours."""
    batch_gpu: Count | Literal["auto"] | None = None
    """Images per process at a time; smaller than batch / processes accumulates gradients. Unset: no accumulation; auto:
    the most that the memory holds by the forecast of dry_run."""
    tracker: Literal["tensorboard", "wandb", "none"] = "none"
    """Experiment tracker that Accelerate writes to, beside metrics.jsonl. Default: ours."""
    allow_changes: bool = False
    """Go on with a run although settings that change what it computes are others now. Default: ours."""
    dry_run: bool = False
    """Print the resolved configuration, the network and the estimated cost; train nothing."""
    perf: SpeedOptions = field(default_factory=SpeedOptions)
    """Speed."""


def train_scorer(options: TrainScorerOptions, interruption: Interruption | None = None) -> Path | None:
    """Train, or resume training.

    Args:
        options: What and how long.
        interruption: As of `launch`.

    Returns:
        The folder of the finished scorer; None after SIGTERM or Ctrl-C.

    Raises:
        UserError: Unusable data or options, another run's folder, or a loss that stays non-finite.
    """
    options = in_range(options)
    if (options.teacher is None) != (options.interval is None):
        unset, given = ("teacher", "interval") if options.teacher is None else ("interval", "teacher")
        raise UserError(f"{unset} is not set, expected one with {given}")
    of_teacher = {"teacher_options": options.teacher_options, "teacher_null_class": options.teacher_null_class}
    for name, value in of_teacher.items():
        if options.teacher is None and value != getattr(TrainScorerOptions(), name):
            raise UserError(f"{name} is set, expected one with teacher")
    folder = Path(options.dir)
    if (folder / "state.safetensors").exists():
        raise UserError(
            f"dir: {folder} holds the state of a training by version 0.1.0 (state.safetensors), which this version "
            "cannot continue, expected another folder; its scorer/ stays usable"
        )
    try:
        return folder / SCORER_FOLDER if launch(config_of(options), interruption) else None
    except UserError as error:
        raise UserError(_in_own_words(str(error))) from error


_OWN_WORDS = {
    "optim.lr_g": "lr",
    "perf.precision": "precision",
    "gan.": "unet.",
    "smart.timesteps, smart.noise_to_signal": "interval",
    "smart.noise_to_signal": "interval",
    "smart.scorer_options": "teacher_options",
    "smart.null_class": "teacher_null_class",
    "smart.scorer:": "teacher:",
    "smart.scorer": "the teacher",
    "smart.self_check": "self_check",
    "the GAN's": "the data's",
}
STUDENT = UNetOptions(block_out_channels=(64, 128, 128, 128), layers_per_block=1, attention=())
"""What a student is where nobody says."""


def _in_own_words(message: str) -> str:
    """A message about settings of `smartfast train`, with this command's names for them."""
    for theirs, ours in _OWN_WORDS.items():  # the names may be parts of paths too
        message = re.sub(rf"(?<![\w./\\~])(?<!\w-){re.escape(theirs)}", ours, message)
    message = re.sub(r" \(smart\.downscale \d+ makes it fit\)", "", message)
    names = "|".join(field.name for field in dataclasses.fields(TrainScorerOptions))
    return re.sub(rf"\b(?:run|data|loss|optim)\.({names})\b", r"\1", message)


def config_of(options: TrainScorerOptions) -> Config:
    """The run of `smartfast train` that the options mean."""
    tick_kimg = min(options.tick_kimg, options.snapshot_kimg)
    own = {f.name: getattr(options, f.name) for f in dataclasses.fields(DenoiserLoss)}
    unet, smart = options.unet, SmartConfig(frequency=0)
    if options.teacher is not None:
        if unet == UNetOptions(network=unet.network):
            unet = dataclasses.replace(STUDENT, network=unet.network)
        smart = SmartConfig(
            scorer=options.teacher,
            scorer_options=options.teacher_options,
            null_class=options.teacher_null_class,
            noise_to_signal=options.interval,
            self_check=options.self_check,
            frequency=1,
            precision="fp32" if options.precision == "tf32" else options.precision,
        )
    return Config(
        run=RunConfig(
            dir=options.dir,
            seed=options.seed,
            init_from=options.init_from,
            kimg=options.kimg,
            tick_kimg=tick_kimg,
            snapshot_ticks=max(round(options.snapshot_kimg / tick_kimg), 1),
            keep_checkpoints=options.keep_checkpoints,
            tracker=options.tracker,
            allow_changes=options.allow_changes,
            dry_run=options.dry_run,
        ),
        data=dataclasses.replace(options.data, holdout=options.holdout or options.data.holdout),
        gan=DenoiserGan(**dataclasses.asdict(unet)),
        loss=DenoiserLoss(**own),
        smart=smart,
        optim=OptimConfig(
            batch=options.batch, batch_gpu=options.batch_gpu, lr_g=options.lr, lr_d=options.lr, betas=(0.9, 0.999)
        ),
        metrics=MetricsConfig(every_ticks=0),
        perf=PerfConfig(precision=options.precision, **dataclasses.asdict(options.perf)),
    )
