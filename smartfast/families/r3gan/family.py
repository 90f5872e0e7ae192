"""R3GAN as a family: two phases, both of all images, without lazy penalties."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.families import R3GanGan, R3GanLoss
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseSpec
from smartfast.errors import UserError
from smartfast.families.adversarial import adversarial_costs
from smartfast.families.base import AUGMENT_PANEL, SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.imported import weights_of_file
from smartfast.families.r3gan.phases import R3GanPhases
from smartfast.families.r3gan.sampler import R3GanSampler
from smartfast.families.start import StartWeights
from smartfast.networks.r3gan import Discriminator, Generator, R3GanOptions

_HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class R3Gan(Family):
    """See `Family`."""

    gan: R3GanGan
    loss: R3GanLoss
    name: ClassVar[str] = "r3gan"
    averaged: ClassVar[str] = "g"
    augments: ClassVar[bool] = True
    takes_vectors: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Relativistic loss", "nats per pair", {"loss/d_main": "discriminator", "loss/g_main": "generator"}),
        Panel("Real minus fake logits (mean)", "logit", {"logits/real_minus_fake": "difference"}),
        SCORE_PANEL,
        AUGMENT_PANEL,
        Panel("Penalties", "squared gradient, logit² per image", {"loss/r1": "R1, reals", "loss/r2": "R2, fakes"}),
    )

    def networks(self) -> dict[str, nn.Module]:
        half: dict[str, Any] = {}
        if (dtype := _HALF_DTYPES.get(self.config.perf.precision)) is not None:
            half = dict(half_stages=self.gan.half_resolutions, half_dtype=dtype)
        options = self.options()
        g = Generator(options.pop("z_dim"), R3GanOptions(**options, **half))
        embedding = self.gan.widths[0] if self.num_classes else 0
        d = Discriminator(R3GanOptions(**options | dict(embedding=embedding), **half))
        return {"g": g, "d": d}

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of a file of R3GAN's project."""
        return weights_of_file(path)

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        gan = config.gan
        assert isinstance(gan, R3GanGan)
        for name in ("cardinalities", "blocks"):
            found = getattr(gan, name)
            if len(found) != len(gan.widths):
                raise UserError(f"gan.{name} has {len(found)} stages, expected {len(gan.widths)}, as gan.widths has")
        for width, groups in zip(gan.widths, gan.cardinalities, strict=True):
            if width * gan.expansion % groups:
                raise UserError(
                    f"gan.cardinalities has {groups}, expected a divisor of the {width * gan.expansion} feature maps "
                    "inside the blocks of its stage"
                )

    @classmethod
    def idle(cls, config: Config) -> Mapping[str, str]:
        assert isinstance(config.loss, R3GanLoss)
        return {"loss.step": "loss.penalty is exact"} if config.loss.penalty == "exact" else {}

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        gan = config.gan
        assert isinstance(gan, R3GanGan)
        resolution = 4 * 2 ** (len(gan.widths) - 1)
        if dataset.resolution != resolution:
            raise UserError(
                f"gan.widths has {len(gan.widths)} stages, for images of {resolution} pixels, expected one for each "
                f"doubling from 4 to the {dataset.resolution} pixels of data.path {config.data.path}"
            )

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        view, gamma = self.augmented_view(parts.scalars), self.loss.gamma
        g, d = self.modules["g"], self.modules["d"]
        assert isinstance(g, Generator) and isinstance(d, Discriminator)
        of = R3GanPhases(
            R3GanSampler(g, data_labels=parts.data_labels, seed=self.config.run.seed),
            d,
            self.loss,
            gamma=parts.scalars.add(lambda images: value_at(gamma, images)),
            seed=self.config.run.seed,
            view=view,
            score=parts.score,
        )
        return [
            PhaseSpec("d_main", "d", of.d_main, carried=view.carried),
            PhaseSpec("g_main", "g", of.g_main, loss_scale=self.loss_scale),
            *self.score_phase(parts, of.g_score, loss_scale=self.loss_scale),
        ]

    def options(self) -> dict[str, Any]:
        gan = self.gan
        return dict(
            z_dim=gan.z_dim,
            widths=list(gan.widths),
            cardinalities=list(gan.cardinalities),
            blocks=list(gan.blocks),
            expansion=gan.expansion,
            channels=self.channels,
            classes=self.num_classes,
            embedding=gan.z_dim if self.num_classes else 0,
        )

    @classmethod
    def build(cls, z_dim: int, **options: Any) -> nn.Module:  # type: ignore[override]
        return Generator(z_dim, R3GanOptions(**options))

    @classmethod
    def build_discriminator(cls, **options: Any) -> nn.Module:
        return Discriminator(R3GanOptions(**options))

    @classmethod
    def feature_layers(cls, discriminator: nn.Module) -> Sequence[nn.Module]:
        assert isinstance(discriminator, Discriminator)
        return list(discriminator.Model.MainLayers)[:-1]

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> R3GanSampler:
        assert isinstance(module, Generator)
        return R3GanSampler(module, data_labels=data_labels, seed=seed)

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        """d_main: a generator's pass; of the discriminator two passes with gradients, and for each penalty three more:
        the images' gradient and the two of its derivative, or one more pass with its gradients."""
        d_main, g_main, *score = adversarial_costs(flops, self.config.smart)
        return [
            d_main._replace(flops=d_main.flops + 6 * flops["d"]),
            g_main._replace(flops=g_main.flops + flops["d"]),
            *score,
        ]
