"""The smallest GAN as a family: points of the plane, so that all that the score term does can be seen and measured.

SMaRt (arXiv 2311.18208) shows its term first in such an example, with a score that is known. Data and score: `plane`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.schema import Config
from smartfast.config.small_families import ToyGan, ToyLoss
from smartfast.core.draws import Purpose
from smartfast.core.grids import GridShape
from smartfast.core.plane import picture
from smartfast.data import ImageDataset
from smartfast.data.holdout import TrainingImages
from smartfast.engine.phase import PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families.adversarial import adversarial_costs, discriminator_loss, generator_loss, r1_penalty
from smartfast.families.base import SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.rounds import Round
from smartfast.families.sampling import Look, Sampler
from smartfast.kernels import philox_normal
from smartfast.networks.mlp import PointDiscriminator, PointGenerator

_SHOWN = 2048
"""Points of a picture."""


class PointSampler(Sampler):
    """Draws points; see `Sampler`. A sheet is one picture of many of them."""

    module: PointGenerator

    def __init__(self, module: PointGenerator, **options: Any) -> None:
        super().__init__(module, image_shape=(2, 1, 1), num_classes=0, **options)
        self.z_shape = (module.z_dim,)

    def draw(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, None]:
        """Points float [N, 2, 1, 1], and no labels."""
        return self.module(philox_normal(self.seed, numbers, self.module.z_dim, int(purpose))), None

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        raise UserError("checkpoint: found a generator of points in the plane, expected one of images")

    @torch.no_grad()
    def __call__(self, numbers: Tensor) -> tuple[Tensor, None]:
        """The points themselves, float [N, 2, 1, 1]: rounded to bytes, all would be off the data."""
        return self.draw(Purpose.SAMPLE, numbers.to(self.device), None)

    @torch.no_grad()
    def grid(self, shape: GridShape, *, batch: int = 64) -> Tensor:
        """One picture uint8 [1, 3, H, W], whatever the shape."""
        points, _ = self.draw(Purpose.GRID, torch.arange(_SHOWN, device=self.device), None)
        return picture(points.flatten(1))


class Toy(Family):
    """See `Family`."""

    gan: ToyGan
    loss: ToyLoss
    name: ClassVar[str] = "toy"
    averaged: ClassVar[str] = "g"
    takes_points: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Adversarial loss", "logistic", {"loss/d_main": "discriminator", "loss/g_main": "generator"}),
        Panel("Squared gradient at real points", "logits per unit of length, squared", {"loss/r1": "R1"}),
        SCORE_PANEL,
    )

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        if config.perf.precision in ("fp16", "bf16"):
            raise UserError(f"perf.precision is {config.perf.precision}, expected fp32 or tf32 with gan.family toy")

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        """Points are all that it asks for, which `takes_points` says."""

    def options(self) -> dict[str, Any]:
        return dict(z_dim=self.gan.z_dim, width=self.gan.width, depth=self.gan.depth)

    def networks(self) -> dict[str, nn.Module]:
        return {
            "g": PointGenerator(**self.options()),
            "d": PointDiscriminator(self.gan.width, self.gan.depth),
        }

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return PointGenerator(**options)

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> PointSampler:
        assert isinstance(module, PointGenerator)
        return PointSampler(module, data_labels=data_labels, seed=seed)

    def real_sheet(self, dataset: TrainingImages, shape: GridShape) -> Tensor:
        return picture(dataset.all_images()[:_SHOWN].flatten(1))

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        g, d = self.modules["g"], self.modules["d"]
        draw = self.sampler(g, seed=self.config.run.seed).draw

        def d_main(batch: Round) -> PhaseResult:
            with torch.no_grad():
                fakes, _ = draw(Purpose.D_MAIN, batch.stream, None)
            loss_fake, loss_real = discriminator_loss(d(fakes), d(batch.images))
            loss, penalty = loss_fake.mean() + loss_real.mean(), r1_penalty(d, batch.images, None).mean()
            statistics = {"loss/d_main": loss.detach(), "loss/r1": penalty.detach()}
            return loss + self.loss.r1_gamma / 2 * penalty, statistics

        def g_main(batch: Round, scored: bool = False) -> PhaseResult:
            fakes, _ = draw(Purpose.G_MAIN, batch.stream, None)
            loss = generator_loss(d(fakes)).mean()
            statistics = {"loss/g_main": loss.detach()}
            if not scored:
                return loss, statistics
            assert parts.score is not None, "g_score runs only where there is a score term"
            return parts.score.join(
                loss, statistics, fakes, None, batch, lambda of: draw(Purpose.G_SCORE, of.stream, None)
            )

        g_score = partial(g_main, scored=True)
        return [
            PhaseSpec("d_main", "d", d_main),
            PhaseSpec("g_main", "g", g_main),
            *self.score_phase(parts, g_score),
        ]

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        """The penalty has a second pass through the discriminator and its derivative, in every step."""
        d_main, *others = adversarial_costs(flops, self.config.smart)
        return [Cost(d_main.phase, d_main.flops + 5 * flops["d"], 1), *others]
