"""Aurora as a family: its generator against StyleGAN2's discriminator, lazy R1, the mean w, the load of the experts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.families import AuroraGan, AuroraLoss
from smartfast.config.schedule import value_at, values_of
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.adam import AdamSettings
from smartfast.engine.phase import Carried, PhaseSpec
from smartfast.errors import UserError
from smartfast.families.adversarial import adversarial_costs
from smartfast.families.aurora.phases import AuroraPhases
from smartfast.families.aurora.sampler import AuroraSampler
from smartfast.families.base import AUGMENT_PANEL, SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.imported import weights_of_file
from smartfast.families.start import StartWeights
from smartfast.networks.aurora import AuroraOptions, Generator, ResidualAttention
from smartfast.networks.aurora.options import FIRST_RESOLUTION
from smartfast.networks.stylegan2 import Discriminator
from smartfast.networks.stylegan2.layers import feature_maps

_HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_OF_GENERATOR = (
    "z_dim w_dim mapping_layers mapping_width mapping_lr_multiplier embedding channel_base channel_max heads head_dim "
    "l2_attention tie scale_in gated deformable fourier residual_gain attention_gain conv_clamp"
).split()
_LISTS = ("kernels", "blocks", "attention", "experts")
LEAST_RESOLUTION = 8
"""Pixels: the discriminator halves the images at least once."""


class Aurora(Family):
    """See `Family`."""

    gan: AuroraGan
    loss: AuroraLoss
    name: ClassVar[str] = "aurora"
    averaged: ClassVar[str] = "g"
    augments: ClassVar[bool] = True
    takes_vectors: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Discriminator loss", "nats per image", {"loss/d_main": "d_main"}),
        Panel("Generator loss", "nats per image", {"loss/g_main": "g_main"}),
        Panel("Logits (mean)", "logit", {"logits/real": "real images", "logits/fake": "fake images"}),
        SCORE_PANEL,
        AUGMENT_PANEL,
        Panel("R1 penalty", "squared gradient, logit² per image", {"loss/r1": "r1"}),
        Panel(
            "Expert load",
            "tokens over those of an even load",
            {"experts/busiest": "busiest expert", "experts/idlest": "idlest expert"},
        ),
        Panel("Routing entropy (mean)", "1 = undecided, 0 = sure", {"experts/entropy": "entropy"}),
        Panel(
            "Losses of the experts", "before their weights", {"loss/balance": "load balance", "loss/router": "routers"}
        ),
    )

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        super().__init__(config, dataset, held_out)
        self.interacting = self.gan.mbstd_group if self.gan.mbstd_channels else 1

    def networks(self) -> dict[str, nn.Module]:
        half: dict[str, Any] = {}
        if (dtype := _HALF_DTYPES.get(self.config.perf.precision)) is not None:
            half = dict(half_resolutions=self.gan.half_resolutions, half_dtype=dtype)
        self.g = Generator(AuroraOptions(**self.options(), **half))
        self.d = Discriminator(
            c_dim=self.num_classes,
            resolution=self.resolution,
            channels=self.channels,
            mapping_layers=self.gan.d_mapping_layers,
            mapping_lr_multiplier=self.gan.mapping_lr_multiplier,
            channel_base=self.gan.d_channel_base,
            channel_max=self.gan.d_channel_max,
            mbstd_group=self.gan.mbstd_group,
            mbstd_channels=self.gan.mbstd_channels,
            conv_clamp=self.gan.conv_clamp,
            **half,
        )
        return {"g": self.g, "d": self.d}

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of a file of SMaRt's or Hammer's projects."""
        return weights_of_file(path)

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        gan = config.gan
        assert isinstance(gan, AuroraGan)
        try:
            AuroraOptions(**_generator_options(gan))
        except ValueError as error:
            raise UserError(f"gan.{error}") from error
        maps = feature_maps(4, gan.d_channel_base, gan.d_channel_max)
        if gan.mbstd_channels and maps % gan.mbstd_channels:
            raise UserError(
                f"gan.mbstd_channels is {gan.mbstd_channels}, expected a divisor of the discriminator's {maps} feature "
                "maps at 4x4"
            )
        if gan.mbstd_channels and images_at_a_time % min(gan.mbstd_group, images_at_a_time):
            raise UserError(
                f"gan.mbstd_group is {gan.mbstd_group}, expected a divisor of the {images_at_a_time} images at a time"
            )

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        gan = config.gan
        assert isinstance(gan, AuroraGan)
        _check_resolution(gan, dataset, config.data.path)
        if gan.d_channel_base < dataset.resolution:
            raise UserError(
                f"gan.d_channel_base is {gan.d_channel_base}, expected at least the {dataset.resolution} pixels of the "
                "images' width: the discriminator has d_channel_base / width feature maps there"
            )

    def adam(self, network: str) -> AdamSettings:
        settings = super().adam(network)
        if network == "d":
            return dataclasses.replace(settings, lazy_interval=self.loss.r1_interval or None)
        if self.gan.attention_lr == 1:
            return settings
        attends = [any(isinstance(x, ResidualAttention) for x in entry.children()) for entry in self.g.synthesis.net]
        groups = [(f"synthesis.net.{i}.", self.gan.attention_lr) for i, is_one in enumerate(attends) if is_one]
        return dataclasses.replace(settings, groups=tuple(groups))

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        loss, view = self.loss, self.augmented_view(parts.scalars)
        of = AuroraPhases(
            AuroraSampler(self.g, data_labels=parts.data_labels, seed=self.config.run.seed),
            self.d,
            loss,
            r1_gamma=parts.scalars.add(lambda images: value_at(loss.r1_gamma, images)),
            view=view,
            score=parts.score,
        )
        w_mean = (Carried("w_mean", self.gan.w_dim, self._move_w_avg),)
        through_images: dict[str, Any] = dict(loss_scale=self.loss_scale, carried=w_mean)
        specs = [PhaseSpec("g_main", "g", of.g_main, **through_images)]
        specs += self.score_phase(parts, of.g_score, **through_images)
        specs.append(PhaseSpec("d_main", "d", of.d_main, carried=view.carried))
        if self._has_r1:
            specs.append(PhaseSpec("d_r1", "d", of.d_r1, loss.r1_interval, gain=float(loss.r1_interval)))
        return specs

    @property
    def _has_r1(self) -> bool:
        return any(values_of(self.loss.r1_gamma)) and self.loss.r1_interval > 0

    def _move_w_avg(self, w_mean: Tensor, bad: Tensor) -> None:
        w_avg = self.g.w_avg
        w_avg.copy_(torch.where(bad > 0, w_avg, w_mean.lerp(w_avg, self.gan.w_avg_beta)))

    def options(self) -> dict[str, Any]:
        return _generator_options(self.gan) | dict(channels=self.channels, classes=self.num_classes)

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return Generator(AuroraOptions(**options))

    @classmethod
    def build_discriminator(cls, **options: Any) -> nn.Module:
        return Discriminator(**options)

    @classmethod
    def feature_layers(cls, discriminator: nn.Module) -> Sequence[nn.Module]:
        assert isinstance(discriminator, Discriminator)
        return discriminator.blocks

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> AuroraSampler:
        assert isinstance(module, Generator)
        return AuroraSampler(module, data_labels=data_labels, seed=seed)

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        d_main, g_main, *score = adversarial_costs(flops, self.config.smart)
        r1 = [Cost("d_r1", 6 * flops["d"], self.loss.r1_interval)] if self._has_r1 else []
        return [d_main, g_main, *r1, *score]


def _generator_options(gan: AuroraGan) -> dict[str, Any]:
    """Those that the settings say, all of which JSON can hold."""
    return {name: getattr(gan, name) for name in _OF_GENERATOR} | {name: list(getattr(gan, name)) for name in _LISTS}


def _check_resolution(gan: AuroraGan, dataset: ImageDataset, path: str) -> None:
    """Raise UserError where the lists are not those of a network for the images."""
    made, width = AuroraOptions(**_generator_options(gan)).resolution, dataset.resolution
    if made == width >= LEAST_RESOLUTION:
        return
    line = (
        f"data.path {path}: images are {width} pixels wide, and the {len(gan.blocks)} numbers of gan.blocks, "
        f"gan.kernels, gan.attention and gan.experts are for {made}"
    )
    if width < LEAST_RESOLUTION:
        raise UserError(f"{line}, expected at least {LEAST_RESOLUTION} pixels (data.resolution)")
    numbers = (width // FIRST_RESOLUTION).bit_length()
    raise UserError(
        f"{line}, expected data.resolution {made}, or {numbers} numbers, one for each doubling from 4 pixels on"
    )
