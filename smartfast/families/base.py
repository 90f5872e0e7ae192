"""What a trained model says of itself: networks, optimizers, phases, samples. All that a run knows of it.

A family is one kind of model, a `Family` object the model of one run. `smartfast.families.FAMILIES` holds them by the
name that gan.family takes; docs/adding_a_family.md adds one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.core.distributed import mean_over_processes
from smartfast.core.grids import GridShape
from smartfast.data import ImageDataset
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.adam import AdamSettings
from smartfast.engine.averages import half_life_step
from smartfast.engine.phase import Carried, PhaseResult, PhaseSpec
from smartfast.engine.schedules import DeviceScalars
from smartfast.families.augmented import AugmentedView, augment_variables, bound_remark
from smartfast.families.sampling import Sampler, real_grid
from smartfast.families.score import ScoreRegularity, score_variables, score_weight
from smartfast.families.start import StartWeights
from smartfast.scorers import Scorer, TimestepRange


class Panel(NamedTuple):
    """One plot of the report. curves: key of metrics.jsonl -> name in the legend (only shown for two or more)."""

    title: str
    unit: str
    curves: dict[str, str]


SCORE_PANEL = Panel("Score term", "squared error, noise variance = 1", {"loss/score": "score"})
"""Of every family that the score term may join."""
AUGMENT_PANEL = Panel("Augmentation probability", "p", {"augment/p": "p"})
"""Of every family whose discriminator may see augmented images."""


class Cost(NamedTuple):
    """What a phase costs: FLOPs of one run per image that it works on, and the iterations between two runs.

    share: Of the images of an iteration that it works on: 1 / n for one step beside a phase of n (PhaseSpec.repeat).
    """

    phase: str
    flops: float
    interval: int
    share: float = 1.0

    @property
    def flops_per_image(self) -> float:
        """FLOPs per training image, averaged over the iterations."""
        return self.flops * self.share / self.interval


@dataclass(frozen=True)
class Parts:
    """What phases work with, on the device of the run.

    data_labels: Labels of the training images, int64 [M] or vectors [M, F]; None = unconditional. scalars: Makes
    scheduled numbers scalars on the device. score: The score term, None = off. scorer: The frozen diffusion model, None
    where there is none, or where a run is only described. num_processes: Processes that share a batch.
    """

    data_labels: Tensor | None
    scalars: DeviceScalars
    score: ScoreRegularity | None
    num_processes: int
    scorer: Scorer | None = None

    def mean_over_processes(self, value: Tensor) -> Tensor:
        """Mean over the processes, differentiable to any order."""
        return mean_over_processes(value) if self.num_processes > 1 else value


class Family(ABC):
    """The model of one run.

    Args:
        config: Checked configuration; `gan` and `loss` are this family's.
        dataset: Training images, of which shape, classes and labels matter here.
        held_out: Images kept out of the training, None = none.

    Attributes:
        name: Its key in FAMILIES, also in the files.
        gan, loss: This family's settings.
        averaged: The network whose running average is sampled and saved for use.
        panels: Plots of its statistics in the report.
        augments: Whether its phases show images to a discriminator through `augmented_view`.
        takes_points: Whether it is of points in the plane, images of two channels and one pixel, instead of pictures.
        takes_vectors: Whether labels may be vectors, several or continuous ones per image, in place of classes.
        distils: Whether it learns from smart.scorer itself, which is then loaded with smart.frequency 0 as well.
        modules: The networks by name, on the CPU; see `networks`.
        variables: Further tensors that the next iterations depend on, saved by name.
        interacting: Images of a batch that one pass lets depend on one another; the batch is cut so that each part
            holds whole groups of them, see `batch_positions`.
        class_group: Reals are ordered so that each of these groups holds one class, 1 = as they come.
    """

    name: ClassVar[str]
    averaged: ClassVar[str]
    panels: ClassVar[tuple[Panel, ...]] = ()
    augments: ClassVar[bool] = False
    takes_points: ClassVar[bool] = False
    takes_vectors: ClassVar[bool] = False
    distils: ClassVar[bool] = False
    gan: GanSettings
    loss: LossSettings
    modules: dict[str, nn.Module]
    interacting: int = 1
    class_group: int = 1

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        self.config, self.gan, self.loss = config, config.gan, config.loss
        self.resolution, self.channels = dataset.resolution, dataset.channels
        self.num_classes = dataset.num_classes
        self.held_out = held_out
        self.variables: dict[str, Tensor] = augment_variables(config.augment) | score_variables(config.smart)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.modules = self.networks()

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Weights for run.init_from in a file or folder of another project, None where it is none that is known.

        Raises UserError, one line, where it is known and cannot be read.
        """
        return None

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """New networks by name, on the CPU; torch's generator, which is put back, begins at run.seed."""

    @property
    def loss_scale(self) -> float:
        """A power of two that brings the gradients of images in fp16 into its range; 1 in other precisions.

        The mean over a batch's pixels has a gradient of 1 / pixels, the discriminator's is larger: the root of an
        image's values leaves room on both sides (tests/run/test_half_precision.py).
        """
        if self.config.perf.precision != "fp16":
            return 1.0
        images = self.config.optim.images_at_a_time(self.config.optim.batch)
        return 2.0 ** round(math.log2(images * math.sqrt(math.prod(self.image_shape))))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.resolution, self.resolution

    @classmethod  # noqa: B027, the types of most settings say all
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        """Raise UserError, one line, for the first of its settings that cannot work whatever the data.

        images_at_a_time: Images of a round of gradient accumulation in one process.
        """

    @classmethod
    def idle(cls, config: Config) -> Mapping[str, str]:
        """Settings, dotted, that do nothing beside the others, and what counts in their place."""
        return {}

    @classmethod
    def depends_on_length(cls, config: Config) -> bool:
        """Whether numbers of a run follow from run.kimg, such as a learning rate that falls until its end."""
        return False

    @classmethod
    def has_score_term(cls) -> bool:
        """Whether a run's scorer is that of a score term, and not the teacher of another scorer."""
        return SCORE_PANEL in cls.panels

    @classmethod
    @abstractmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        """Raise UserError, one line, for the first of its settings that does not fit the data."""

    @classmethod  # noqa: B027, a score term takes any
    def check_scorer(cls, config: Config, scorer: Scorer) -> None:
        """Raise UserError, one line, for the first setting that does not fit the scorer of the run."""

    def adam(self, network: str) -> AdamSettings:
        """How a network is optimized; here g and d, whose learning rates are optim.lr_g and optim.lr_d."""
        optim = self.config.optim
        lr = {"g": optim.lr_g, "d": optim.lr_d}[network]
        return AdamSettings(lr=lambda images: value_at(lr, images), betas=optim.betas, eps=optim.eps)

    def score_term(
        self, scorer: Scorer | None, timesteps: TimestepRange | None, scalars: DeviceScalars
    ) -> ScoreRegularity | None:
        """The score term of the run, None without a scorer or without an interval of it."""
        if scorer is None or timesteps is None:
            return None
        smart = self.config.smart
        return ScoreRegularity(
            scorer,
            timesteps,
            smart,
            seed=self.config.run.seed,
            weight=score_weight(smart, self.variables, scalars),
            loss_scale=self.loss_scale,
        )

    @abstractmethod
    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        """The phases that the configuration runs, in the order in which an iteration runs those that are due."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The arguments of `build`, all of which JSON can hold."""

    @classmethod
    @abstractmethod
    def build(cls, **options: Any) -> nn.Module:
        """The averaged network, without its weights; raises TypeError or ValueError for options that do not fit."""

    @classmethod
    def build_discriminator(cls, **options: Any) -> nn.Module:
        """As `build`, the discriminator of a file that `smartfast.interop.read_gan` reads."""
        raise ValueError(f"gan.family {cls.name} has no discriminator in files of other projects")

    @classmethod
    @abstractmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> Sampler:
        """What draws images from the averaged network; data_labels int64 [M], None = labels 0.. in turn."""

    @classmethod
    def feature_layers(cls, discriminator: nn.Module) -> Sequence[nn.Module]:
        """Layers whose outputs, images of features or tuples that begin with some, tell what it sees; none = not said.

        It is called as d in `example_inputs`.
        """
        return ()

    def example_inputs(self) -> dict[str, Sequence[Tensor | None]]:
        """Arguments of each network for a batch of one, of which only shapes and dtypes matter.

        Here a latent for g, an image for d, and a label vector for both.
        """
        c = torch.empty(1, self.num_classes) if self.num_classes else None
        z = torch.empty(1, *self.sampler(self.modules["g"]).z_shape)
        return {"g": [z, c], "d": [torch.empty(1, *self.image_shape), c]}

    @abstractmethod
    def costs(self, flops: dict[str, float]) -> list[Cost]:
        """Estimated cost of each phase from the FLOPs of a forward pass, by network and `scorer`, per image."""

    def remark_on_costs(self, flops: Mapping[str, float]) -> str | None:
        """What a dry run is to say below the costs, which have the same arguments; None = nothing."""
        return None

    def score_phase(
        self, parts: Parts, loss: Callable[[Any], PhaseResult], *, carried: tuple[Carried, ...] = (), **options: Any
    ) -> list[PhaseSpec]:
        """What takes g_main's place in every smart.frequency-th iteration; nothing where there is no score term.

        loss, carried, options: Of the `PhaseSpec`, to whose carried values those of the term are added.
        """
        if parts.score is None:
            return []
        carried, frequency = (*carried, *parts.score.carried), self.config.smart.frequency
        return [PhaseSpec("g_score", "g", loss, frequency, "g_main", carried=carried, **options)]

    def augmented_view(self, scalars: DeviceScalars) -> AugmentedView:
        """Images as the discriminator sees them; its `carried` belong to the phase that has its `statistics`."""
        optim, seed = self.config.optim, self.config.run.seed
        return AugmentedView(self.config.augment, self.variables, scalars, seed=seed, batch=optim.batch)

    def remark(self, row: Mapping[str, float]) -> str | None:
        """What a user should hear, once, about the statistics of a tick by their names in metrics.jsonl."""
        return bound_remark(self.config.augment, row)

    def average_step(self, images: int, batch: int) -> float:
        """Share of the way to the trained weights that the average goes after an iteration of `batch` images.

        images: Seen before it.
        """
        optim = self.config.optim
        half_life = value_at(optim.ema_kimg, images)
        return half_life_step(images, batch=batch, half_life_kimg=half_life, rampup=optim.ema_rampup)

    @property
    def sheet_rows(self) -> int | None:
        """Most rows of a sheet of samples, None = as many as fit."""
        return None

    def real_sheet(self, dataset: TrainingImages, shape: GridShape) -> Tensor:
        """A sheet of training images, uint8 [N, C, H, W], to be held against `Sampler.grid`."""
        return real_grid(dataset, shape)

    def measure(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """What else is measured of the averaged network at a snapshot, by name; the first process alone asks."""
        return {}

    def export(self, run_dir: Path, weights: dict[str, Tensor]) -> None:  # noqa: B027, most have no other format
        """Write the averaged network's weights in another format as well, beside each checkpoint."""
