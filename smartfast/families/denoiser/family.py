"""A diffusion model as a family: one phase, a clipped gradient, and an average that is a scorer for smart.scorer.

With smart.frequency 1 it learns from smart.scorer, for the interval of its score term, instead of from the noise.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.families import DenoiserGan, DenoiserLoss
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.core.draws import Purpose, one_hot
from smartfast.core.files import write_atomically
from smartfast.core.pixels import to_float
from smartfast.data import ImageDataset
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.adam import AdamSettings
from smartfast.engine.phase import PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families.base import Cost, Family, Panel, Parts
from smartfast.families.denoiser.distillation import Teacher, check_distillation, check_teacher
from smartfast.families.denoiser.network import Denoiser, Noised
from smartfast.families.denoiser.options import (
    attention_unit,
    build_denoiser,
    check_fixed,
    check_widths,
    options_of,
)
from smartfast.families.denoiser.sampler import DenoiserSampler
from smartfast.families.rounds import Round
from smartfast.families.start import AVERAGE, StartWeights
from smartfast.kernels import philox_uniform
from smartfast.networks.unets import set_dropout
from smartfast.scorers import Scorer, converted, diffusers
from smartfast.scorers.bands import BANDS, eps_loss_by_band
from smartfast.scorers.class_names import CLASS_NAMES_FILE
from smartfast.scorers.diffusers import load_unet

SCORER_FOLDER = "scorer"
_HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class DenoiserFamily(Family):
    """See `Family`."""

    gan: DenoiserGan
    loss: DenoiserLoss
    name: ClassVar[str] = "denoiser"
    averaged: ClassVar[str] = "denoiser"
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Training loss", "squared error of the prediction", {"loss/denoise": "all timesteps"}),
        Panel(
            "Images kept out, by timesteps",
            "squared error of the noise",
            {f"heldout/{first}-{last}": f"{first} to {last}" for first, last in BANDS},
        ),
        Panel(
            "Gradient of the score term, against the teacher's",
            "cosine on images kept out",
            {
                "teacher/cosine": "one draw of noise",
                "teacher/mean_cosine": "mean over draws",
                "teacher/perturbed_cosine": "one draw, perturbed images",
                "teacher/perturbed_mean_cosine": "mean over draws, perturbed images",
            },
        ),
    )

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        super().__init__(config, dataset, held_out)
        self.class_names = dataset.class_names
        self.teacher: Teacher | None = None

    def networks(self) -> dict[str, nn.Module]:
        self.denoiser = build_denoiser(**self.options())
        if self.gan.network != "unet2d":
            set_dropout(self.denoiser, self.gan.dropout)
        return {"denoiser": self.denoiser}

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of a scorer's folder: diffusers' or a converted one, its own exports among them."""
        if converted.FORMAT.recognises(path):
            options, tensors = converted.stored_network(path)
        elif diffusers.FORMAT.recognises(path):
            unet = load_unet(path)
            options, tensors = dict(unet.config), unet.state_dict()
        else:
            return None
        named = {f"unet.{name}": value for name, value in tensors.items()}
        return StartWeights(str(path), cls.name, {"unet": options}, {AVERAGE: named})

    @property
    def sheet_rows(self) -> int:
        return self.loss.sample_rows

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        gan = config.gan
        assert isinstance(gan, DenoiserGan) and isinstance(config.loss, DenoiserLoss)
        check_fixed(gan, config.loss)
        check_widths(gan)
        if config.smart.frequency:
            check_distillation(config)

    @classmethod
    def idle(cls, config: Config) -> Mapping[str, str]:
        average = {"optim.ema_kimg": "loss.ema_decay moves the average of gan.family denoiser"}
        if not config.smart.frequency:
            return average
        return average | dict.fromkeys(("loss.ln_sigma_mean", "loss.ln_sigma_std"), "the teacher's interval counts")

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        assert isinstance(config.gan, DenoiserGan) and isinstance(config.loss, DenoiserLoss)
        levels = len(config.gan.block_out_channels)
        if dataset.resolution % 2 ** (levels - 1):
            raise UserError(
                f"gan.block_out_channels has {levels} levels, expected fewer for {dataset.resolution} pixels"
            )
        attends = [dataset.resolution >> level in config.gan.attention for level in range(levels)]
        attends[-1] = True  # the middle block always does
        for channels, here in zip(config.gan.block_out_channels, attends, strict=True):
            if here and channels % attention_unit(config.gan):
                raise UserError(
                    f"gan.attention_head_dim is {config.gan.attention_head_dim}, expected a divisor of the {channels} "
                    "feature maps that attend"
                )
        shape = (dataset.channels, dataset.resolution, dataset.resolution)
        try:
            with torch.device("meta"):
                build_denoiser(**options_of(config.gan, config.loss, shape, dataset.num_classes))
        except ValueError as error:
            raise UserError(f"gan.block_out_channels is {list(config.gan.block_out_channels)}: {error}") from error

    @classmethod
    def depends_on_length(cls, config: Config) -> bool:
        assert isinstance(config.loss, DenoiserLoss)
        return config.loss.lr_decay != "constant"

    def adam(self, network: str) -> AdamSettings:
        optim = self.config.optim
        return AdamSettings(self.learning_rate, optim.betas, optim.eps, clip_norm=self.loss.grad_clip)

    def learning_rate(self, images: int) -> float:
        """That of a step after `images` images: it rises from 0, then stays or falls to 0 like a cosine."""
        loss, batch, kimg = self.loss, self.config.optim.batch, images / 1000
        lr = value_at(self.config.optim.lr_g, images)
        if kimg < loss.lr_warmup_kimg:
            return lr * (images + batch) / (1000 * loss.lr_warmup_kimg + batch)
        if loss.lr_decay == "constant":
            return lr
        progress = (kimg - loss.lr_warmup_kimg) / max(self.config.run.kimg - loss.lr_warmup_kimg, 1e-9)
        return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    def average_step(self, images: int, batch: int) -> float:
        """1 - loss.ema_decay, or more while (1 + step) / (10 + step) is smaller than the decay (Ho et al.'s code).

        Not more in a run that starts from other weights, which the first step would take from the average.
        """
        if self.config.run.init_from is not None:
            return 1 - self.loss.ema_decay
        step = images // batch
        return 1 - min(self.loss.ema_decay, (1 + step) / (10 + step)) if step else 1.0

    @classmethod
    def check_scorer(cls, config: Config, scorer: Scorer) -> None:
        assert isinstance(config.gan, DenoiserGan) and isinstance(config.loss, DenoiserLoss)
        check_teacher(config.gan, config.loss, scorer)

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        if parts.score is not None:
            self.teacher = Teacher(parts.score, self.config.run.seed)
        return [PhaseSpec("denoise", "denoiser", self.denoise, loss_scale=self.loss_scale)]

    def denoise(self, batch: Round) -> PhaseResult:
        """Mean squared error of the prediction at one random level of noise per image, with the level's weight."""
        noised = self._noised(batch)
        half = _HALF_DTYPES.get(self.config.perf.precision)
        with torch.autocast(noised.x_t.device.type, half, enabled=half is not None):
            prediction = self.denoiser(noised.x_t, noised.level, self.shown_classes(batch))
        loss = (noised.weight * (prediction.float() - noised.target).square()).mean()
        return loss, {"loss/denoise": loss.detach()}

    def _noised(self, batch: Round) -> Noised:
        images = batch.images.detach()
        if self.teacher is not None:
            return self.teacher.noised(self.denoiser, images, batch.labels, batch.stream)
        return self.denoiser.noised(images, batch.stream, seed=self.config.run.seed, settings=self.loss)

    def shown_classes(self, batch: Round) -> Tensor | None:
        """Classes int64 [N], or, where loss.label_dropout hides some, label vectors [N, classes]; None without any."""
        if batch.labels is None or not self.loss.label_dropout:
            return batch.labels
        uniform = philox_uniform(self.config.run.seed, batch.stream, 1, int(Purpose.LABEL_DROPOUT))
        vectors = one_hot(batch.labels, self.num_classes)
        assert vectors is not None
        return vectors * (uniform >= self.loss.label_dropout)

    def options(self) -> dict[str, Any]:
        return options_of(self.gan, self.loss, self.image_shape, self.num_classes)

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return build_denoiser(**options)

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> DenoiserSampler:
        assert isinstance(module, Denoiser)
        return DenoiserSampler(module, data_labels=data_labels, seed=seed)

    def example_inputs(self) -> dict[str, Sequence[Tensor | None]]:
        level, label = torch.ones(1, dtype=self.denoiser.level_dtype), torch.zeros(1, dtype=torch.int64)
        return {"denoiser": [torch.empty(1, *self.image_shape), level, label if self.num_classes else None]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        return [Cost("denoise", 3 * flops["denoiser"] + flops.get("scorer", 0.0), 1)]

    def remark_on_costs(self, flops: Mapping[str, float]) -> str | None:
        """What a score term through the student costs beside one through its teacher."""
        if "scorer" not in flops:
            return None
        student, teacher = flops["denoiser"] / 1e6, flops["scorer"] / 1e6
        return (
            f"As a scorer: {student:,.2f} MFLOP per image forward, {2 * student:,.2f} with the gradient; the teacher "
            f"{teacher:,.2f} and {2 * teacher:,.2f}: {student / teacher:.3g} times as much"
        )

    @torch.no_grad()
    def measure(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """On the images kept out, the averaged network's loss by timesteps, or how like its teacher it is."""
        if self.held_out is None:
            return {}
        assert isinstance(module, Denoiser)
        images = to_float(self.held_out.all_images().to(device))
        labels = None if self.held_out.labels is None else self.held_out.labels.to(device)
        if self.teacher is not None:
            return self.teacher.likeness(module, images, labels)
        scorer = module.scorer(device)
        return {f"heldout/{band}": value for band, value in eps_loss_by_band(scorer, images, labels).items()}

    def export(self, run_dir: Path, weights: dict[str, Tensor]) -> None:
        """Write `scorer/`, which smart.scorer takes, with the names of its classes; each of its files appears whole."""
        module, folder = build_denoiser(**self.options()), run_dir / SCORER_FOLDER
        module.load_state_dict(weights)
        module.save(folder, torch.float16 if self.loss.save_precision == "fp16" else torch.float32)
        if self.class_names:
            write_atomically(folder / CLASS_NAMES_FILE, json.dumps(self.class_names, indent=2).encode())
        if self.teacher is not None:
            self.teacher.sign(folder)
