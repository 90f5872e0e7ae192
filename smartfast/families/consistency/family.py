"""A consistency model as a family: one phase, which holds the network against its own average one level below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from smartfast.config.schema import Config
from smartfast.config.small_families import ConsistencyGan, ConsistencyLoss
from smartfast.core.draws import Purpose
from smartfast.data import ImageDataset
from smartfast.engine.phase import Carried, PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families.base import SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.consistency.distillation import Levels, Teacher, noise_levels, pseudo_huber
from smartfast.families.consistency.network import (
    ConsistencyModel,
    build_consistency,
    is_pipeline,
    load_pipeline,
    save_pipeline,
)
from smartfast.families.consistency.sampler import ConsistencySampler
from smartfast.families.denoiser.options import unet2d_arguments
from smartfast.families.rounds import Round
from smartfast.families.start import AVERAGE, StartWeights
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.scorers import Scorer, diffusers
from smartfast.scorers.diffusers import load_unet

PIPELINE_FOLDER = "pipeline"
_TARGET = "target/"


class Consistency(Family):
    """See `Family`."""

    gan: ConsistencyGan
    loss: ConsistencyLoss
    name: ClassVar[str] = "consistency"
    averaged: ClassVar[str] = "g"
    distils: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Consistency loss", "distance, weighted", {"loss/g_main": "loss"}),
        Panel("Distance from the target", "per image", {"consistency/distance": "distance"}),
        SCORE_PANEL,
    )

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        assert isinstance(config.loss, ConsistencyLoss)
        loss, smart = config.loss, config.smart
        if config.perf.precision in ("fp16", "bf16"):
            raise UserError(
                f"perf.precision is {config.perf.precision}, expected fp32 or tf32 with gan.family {cls.name}"
            )
        if loss.sigma_min >= loss.sigma_max:
            raise UserError(
                f"loss.sigma_min is {loss.sigma_min:g}, expected less than loss.sigma_max {loss.sigma_max:g}"
            )
        for name, value in {"downscale": smart.downscale > 1, "crop": smart.crop, "balance": smart.balance}.items():
            if value:
                raise UserError(f"smart.{name} is set, expected its default with gan.family {cls.name}")

    @classmethod
    def check_scorer(cls, config: Config, scorer: Scorer) -> None:
        if scorer.learnt_interval is not None:
            low, high = scorer.learnt_interval
            raise UserError(
                f"smart.scorer {config.smart.scorer}: has learnt sigma/alpha {low:g}..{high:g} alone, expected one of "
                f"all noise with gan.family {cls.name}, such as that one's teacher"
            )

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        gan = config.gan
        assert isinstance(gan, ConsistencyGan)
        halvings = len(gan.block_out_channels) - 1
        if not gan.block_out_channels or dataset.resolution % 2**halvings:
            raise UserError(
                f"gan.block_out_channels is {list(gan.block_out_channels)}, expected the feature maps of the "
                f"{dataset.resolution} pixels and, if more, of halves of them"
            )
        shape = (dataset.channels, dataset.resolution, dataset.resolution)
        try:
            with torch.device("meta"):
                build_consistency(unet2d_arguments(gan, shape, dataset.num_classes), {})
        except ValueError as error:
            raise UserError(f"gan.block_out_channels is {list(gan.block_out_channels)}: {error}") from error

    def options(self) -> dict[str, Any]:
        loss = self.loss
        noise = dict(sigma_min=loss.sigma_min, sigma_max=loss.sigma_max, sigma_data=loss.sigma_data)
        return {
            "unet": unet2d_arguments(self.gan, self.image_shape, self.num_classes),
            "scheduler": noise | {"num_train_timesteps": loss.intervals + 1},
        }

    def networks(self) -> dict[str, nn.Module]:
        g = build_consistency(**self.options())
        self.variables |= {f"{_TARGET}{name}": value.detach().clone() for name, value in g.named_parameters()}
        return {"g": g}

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return build_consistency(**options)

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of a published model, or of a diffusers scorer: the one that is distilled is a good start."""
        if is_pipeline(path):
            unet = load_pipeline(path).unet
        elif diffusers.FORMAT.recognises(path):
            unet = load_unet(path)
        else:
            return None
        named = {f"unet.{name}": value for name, value in unet.state_dict().items()}
        return StartWeights(str(path), cls.name, {"unet": dict(unet.config)}, {AVERAGE: named})

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> ConsistencySampler:
        assert isinstance(module, ConsistencyModel)
        return ConsistencySampler(module, data_labels=data_labels, seed=seed)

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        g, seed, scorer = self.modules["g"], self.config.run.seed, parts.scorer
        levels = noise_levels(self.loss, scorer, parts.scalars.device)
        teacher = None if scorer is None else Teacher(scorer, levels, heun=self.loss.solver == "heun")
        draw = self.sampler(g, data_labels=parts.data_labels, seed=seed).draw

        def g_main(batch: Round) -> PhaseResult:
            distance, weight = self._distances(batch, levels, teacher)
            loss = (weight * distance).mean()
            return loss, {"loss/g_main": loss.detach(), "consistency/distance": distance.detach().mean()}

        def g_score(batch: Round) -> PhaseResult:
            assert parts.score is not None, "g_score runs only where there is a score term"
            fakes, labels = draw_scored(batch)
            return parts.score.join(*g_main(batch), fakes, labels, batch, draw_scored)

        def draw_scored(batch: Round) -> tuple[Tensor, Tensor | None]:
            return draw(Purpose.G_SCORE, batch.stream, None)

        followed = (self._followed(parts),)
        return [
            PhaseSpec("g_main", "g", g_main, carried=followed),
            *self.score_phase(parts, g_score, carried=followed),
        ]

    def _distances(self, batch: Round, levels: Levels, teacher: Teacher | None) -> tuple[Tensor, Tensor]:
        """Of each image: its distance to the target, and what that counts, each [N] (algorithm 2).

        Without a teacher, where a run is only described, the images stay at their level.
        """
        g, seed, images = self.modules["g"], self.config.run.seed, batch.images.detach()
        uniform = philox_uniform(seed, batch.stream, 1, Purpose.G_MAIN + Purpose.CHOICES)[:, 0]
        piece = levels.drawn(uniform)
        lower, upper = levels.sigma[piece], levels.sigma[piece + 1]
        noise = philox_normal(seed, batch.stream, images[0].numel(), int(Purpose.G_MAIN)).view(images.shape)
        x = images + upper[:, None, None, None] * noise
        below = x if teacher is None else teacher.step(x, piece, batch.labels)
        with torch.no_grad():
            target = functional_call(g, self._target(), (below, lower, batch.labels))
        weight = 1 / (upper - lower) if self.loss.weighting == "step" else torch.ones_like(upper)
        return pseudo_huber(g(x, upper, batch.labels), target), weight

    def _target(self) -> dict[str, Tensor]:
        """The weights that the target is computed with, by the names of g's parameters."""
        return {name: self.variables[f"{_TARGET}{name}"] for name, _ in self.modules["g"].named_parameters()}

    def _followed(self, parts: Parts) -> Carried:
        """A good step takes the target's weights some of the way to g's; the first all of it, for a run may begin with
        weights from elsewhere."""
        share = parts.scalars.add(lambda images: 1 - self.loss.target_decay if images else 1.0)

        def follow(_: Tensor, bad: Tensor) -> None:
            for value, trained in zip(self._target().values(), self.modules["g"].parameters(), strict=True):
                value.lerp_(trained.detach(), share * (1 - bad))

        return Carried("loss/g_main", 1, follow, is_shown=True)

    def example_inputs(self) -> dict[str, Sequence[Tensor | None]]:
        label = torch.zeros(1, dtype=torch.int64) if self.num_classes else None
        return {"g": [torch.empty(1, *self.image_shape), torch.ones(1), label]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        """The network with its gradient, the target, and the scorer's passes; the term draws samples of its own."""
        smart, scorer = self.config.smart, flops.get("scorer", 0.0)
        passes = 2 if self.loss.solver == "heun" else 1
        costs = [Cost("g_main", 4 * flops["g"] + passes * scorer, 1)]
        if smart.frequency and scorer:
            of_scorer = 2 if smart.through_network else 1
            costs.append(Cost("score", smart.batch_fraction * of_scorer * scorer + 3 * flops["g"], smart.frequency))
        return costs

    def export(self, run_dir: Path, weights: dict[str, Tensor]) -> None:
        """Write `pipeline/`, a folder of diffusers' ConsistencyModelPipeline; each of its files appears whole."""
        model = build_consistency(**self.options())
        model.load_state_dict(weights)
        save_pipeline(model, run_dir / PIPELINE_FOLDER)
