"""A student of a frozen scorer, for the narrow interval of noise that a score term uses.

The student learns the teacher's prediction, not the noise: what the term sends to an image is a gradient through the
network, which is the teacher's own only where their predictions agree around the image and not at the image alone. The
noise sees to that on the images of the data. A GAN's images lie beside those, so most of the training images are
perturbed: between sharp and blurred, between one and a ghost of itself, or with noise that the teacher is not told of.
"""

import dataclasses
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.config.families import DenoiserGan, DenoiserLoss
from smartfast.config.schema import Config, SmartConfig
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.errors import UserError
from smartfast.families.denoiser.network import Denoiser, Noised, per_image
from smartfast.families.denoiser.options import EDM_NETWORKS
from smartfast.families.score import ScoreRegularity
from smartfast.kernels import noise_forward, philox_normal, philox_uniform
from smartfast.scorers import Scorer
from smartfast.scorers.distilled import write_learnt_interval
from smartfast.scorers.likeness import Likeness, likeness
from smartfast.scorers.schedule import PARAMETERIZATIONS, NoiseSchedule, schedule_from_config

KEPT_SHARE = 0.25
"""Of the training images, that no perturbation changes."""
_GHOST, _NOISE = 0.5, 0.3
"""Most of a ghost in an image, and the largest standard deviation of the noise."""
_COMPARED_IMAGES = 64
"""Of those kept out, at most, on which a student is held against its teacher, which takes as long as some training."""
_OF_TEACHER = set("scorer scorer_options self_check null_class timesteps noise_to_signal frequency precision".split())
"""What of the settings of a score term says which teacher and where; a student has no use for the others."""
_LARGEST_DIFFERENCE = 1e-4
"""Between the noise to signal of two schedules that are one, relative: files have some in float32."""


def check_distillation(config: Config) -> None:
    """Raise UserError for the first setting that a student cannot have, whoever its teacher is."""
    smart, usual = config.smart, SmartConfig()
    if smart.frequency != 1:
        raise UserError(f"smart.frequency is {smart.frequency}, expected 0, or 1 to learn from smart.scorer")
    for name in (field.name for field in dataclasses.fields(smart) if field.name not in _OF_TEACHER):
        if getattr(smart, name) != getattr(usual, name):
            found, expected = getattr(smart, name), getattr(usual, name)
            raise UserError(f"smart.{name} is {found}, expected {expected}: a diffusion model has no fakes")
    if not config.data.holdout:
        raise UserError("data.holdout is 0, expected images to hold gradients against the teacher's on, such as 200")


def check_teacher(gan: DenoiserGan, loss: DenoiserLoss, teacher: Scorer) -> None:
    """Raise UserError for the first setting in which a student would not speak of noise as its teacher does."""
    tells_sigma = bool((teacher.alphas == 1).all())
    if tells_sigma != (gan.network in EDM_NETWORKS):
        kinds, why = (EDM_NETWORKS, "is told sigma") if tells_sigma else (("unet2d", "adm"), "counts timesteps")
        raise UserError(f"gan.network is {gan.network}, expected {' or '.join(kinds)}: smart.scorer {why}")
    if loss.label_dropout:
        raise UserError(f"loss.label_dropout is {loss.label_dropout:g}, expected 0 with a teacher, which is told all")
    if tells_sigma:
        return
    theirs = {form: name for name, form in PARAMETERIZATIONS.items()}[teacher.parameterization]
    if loss.prediction_type != theirs:
        raise UserError(f"loss.prediction_type is {loss.prediction_type}, expected {theirs}, as smart.scorer has it")
    if loss.num_timesteps != teacher.num_timesteps:
        found, expected = loss.num_timesteps, teacher.num_timesteps
        raise UserError(f"loss.num_timesteps is {found}, expected {expected}, as smart.scorer has it")
    config = {"beta_schedule": loss.beta_schedule, "num_train_timesteps": loss.num_timesteps}
    schedule = schedule_from_config(config, "loss.beta_schedule")
    own = (schedule.sigmas / schedule.alphas).to(teacher.alphas.device)
    if not torch.allclose(own, teacher.sigmas.double() / teacher.alphas.double(), rtol=_LARGEST_DIFFERENCE):
        raise UserError(
            f"loss.beta_schedule is {loss.beta_schedule}, expected that of smart.scorer, which is {teacher.schedule}"
        )


class Teacher:
    """What a student learns from.

    Args:
        score: The score term of the run, of which the scorer and its interval count.
        seed: Of the run.
    """

    def __init__(self, score: ScoreRegularity, seed: int) -> None:
        self.scorer, self.timesteps, self.smart, self.seed = score.term.scorer, score.timesteps, score.smart, seed

    def noised(self, denoiser: Denoiser, images: Tensor, labels: Tensor | None, stream: Tensor) -> Noised:
        """What a student is trained on: perturbed images at random timesteps, and what the teacher says of them.

        The error counts as one in eps.
        """
        scorer = self.scorer
        images = perturbed(images, stream, seed=self.seed)
        t = draw_timesteps(self.seed, stream, self.timesteps.first, self.timesteps.last)
        alpha, sigma, purpose = scorer.alpha(t), scorer.sigma(t), int(Purpose.SCORE_NOISE)
        x_t = noise_forward(images, alpha, sigma, seed=self.seed, stream=stream, purpose=purpose)
        with torch.no_grad():
            target = scorer.network(x_t, t, labels).to(images.dtype)
        return Noised(x_t, level_of(denoiser, scorer, t), target, per_image(scorer.distance_weight(t, "eps")))

    def likeness(self, denoiser: Denoiser, images: Tensor, labels: Tensor | None) -> dict[str, float]:
        """How like the teacher a student is, on images float [N, C, H, W] and on these when all are perturbed."""
        student = _Student(denoiser, self.scorer)
        every = math.ceil(len(images) / _COMPARED_IMAGES)
        images, labels = images[::every], None if labels is None else labels[::every]
        changed = perturbed(images, torch.arange(len(images), device=images.device), seed=self.seed, kept_share=0.0)
        found = {"": images, "perturbed_": changed}
        of = {name: likeness(student, self.scorer, self.timesteps, x, labels) for name, x in found.items()}
        return {f"teacher/{name}{field}": getattr(of[name], field) for name in found for field in Likeness._fields}

    def sign(self, folder: Path) -> None:
        """Say in a student's folder what it has learnt."""
        ends = self.timesteps.noise_to_signal_low, self.timesteps.noise_to_signal_high
        write_learnt_interval(folder, str(self.smart.scorer), self.smart.noise_to_signal or ends)


def perturbed(images: Tensor, stream: Tensor, *, seed: int, kept_share: float = KEPT_SHARE) -> Tensor:
    """Images beside those of the data: each is drawn some way to another one, by lot.

    Args:
        images: float [N, C, H, W] in [-1, 1].
        stream: Their numbers, int64 [N].
        seed: Of the lots.
        kept_share: Of the images, that stay as they are.
    """
    lots = philox_uniform(seed, stream, 2, int(Purpose.PERTURBATION) + Purpose.CHOICES)
    noise = philox_normal(seed, stream, images[0].numel(), int(Purpose.PERTURBATION)).view(images.shape)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    moved = images.roll((images.shape[2] // 8 + 1, images.shape[3] // 8 + 1), dims=(2, 3))
    ways = (blurred - images, _GHOST * (moved - images), _NOISE * noise)
    way = ((lots[:, 0] - kept_share) / (1 - kept_share) * len(ways)).floor()  # below 0: none
    for number, change in enumerate(ways):
        images = images + per_image(lots[:, 1] * (way == number)) * change
    return images


def level_of(denoiser: Denoiser, scorer: Scorer, t: Tensor) -> Tensor:
    """What a student is told of the noise at its teacher's timesteps, int64 [N]."""
    return t if denoiser.level_dtype == torch.int64 else scorer.sigma(t)


class _Student(Scorer):
    """A denoiser as a scorer with its teacher's timesteps."""

    def __init__(self, denoiser: Denoiser, teacher: Scorer) -> None:
        super().__init__(
            NoiseSchedule(teacher.schedule, teacher.alphas, teacher.sigmas),
            image_shape=denoiser.image_shape,
            num_classes=denoiser.num_classes,
            parameterization=teacher.parameterization,
            dtype=torch.float32,
        )
        self.denoiser = [denoiser]  # in a list it is no part of this module, which would freeze it

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        (denoiser,) = self.denoiser
        return denoiser(x_t, level_of(denoiser, self, t), labels)
