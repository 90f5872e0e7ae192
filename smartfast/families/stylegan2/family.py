"""StyleGAN2 as a family: lazy phases, Adam's lazy correction, the mean w and the mean path length."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.families import StyleGan2Gan, StyleGan2Loss
from smartfast.config.schedule import value_at, values_of
from smartfast.config.schema import Config
from smartfast.data import ImageDataset
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.adam import AdamSettings
from smartfast.engine.phase import Carried, PhaseSpec
from smartfast.families.adversarial import adversarial_costs
from smartfast.families.augmented import AugmentedView
from smartfast.families.base import AUGMENT_PANEL, SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.imported import weights_of_file
from smartfast.families.start import StartWeights
from smartfast.families.stylegan2 import checks
from smartfast.families.stylegan2.latents import LatentSampler
from smartfast.families.stylegan2.networks import build_networks, generator_options
from smartfast.families.stylegan2.phases import StyleGan2Phases
from smartfast.families.stylegan2.sampler import StyleGan2Sampler
from smartfast.networks.stylegan2 import Discriminator, Generator


class StyleGan2(Family):
    """See `Family`."""

    gan: StyleGan2Gan
    loss: StyleGan2Loss
    name: ClassVar[str] = "stylegan2"
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
        Panel("Path-length penalty", "squared deviation of the path length", {"loss/path_length": "path length"}),
    )

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        super().__init__(config, dataset, held_out)
        self.variables["path_mean"] = torch.zeros([])
        self.interacting = self.gan.mbstd_group if self.gan.mbstd_channels else 1
        self.class_group = self.interacting if self.gan.mbstd_by_class else 1

    def networks(self) -> dict[str, nn.Module]:
        config = self.config
        self.g, self.d = build_networks(
            self.gan,
            resolution=self.resolution,
            channels=self.channels,
            num_classes=self.num_classes,
            precision=config.perf.precision,
            seed=config.run.seed,
        )
        return {"g": self.g, "d": self.d}

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of a file of NVIDIA's, of SMaRt's and Hammer's, or of rosinality's projects."""
        return weights_of_file(path)

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        checks.check_settings(config, images_at_a_time)

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        checks.check_data(config, dataset)

    def adam(self, network: str) -> AdamSettings:
        interval = {"g": self.loss.path_length_interval, "d": self.loss.r1_interval}[network]
        return dataclasses.replace(super().adam(network), lazy_interval=interval or None)

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        loss, view = self.loss, self.augmented_view(parts.scalars)
        of = self._losses(parts, view)
        w_mean = (Carried("w_mean", self.gan.w_dim, self._move_w_avg),)
        path_mean = (Carried("path_mean", 1, self._set_path_mean),)
        through_images: dict[str, Any] = dict(loss_scale=self.loss_scale, carried=w_mean)
        specs = [PhaseSpec("g_main", "g", of.g_main, **through_images)]
        specs += self.score_phase(parts, of.g_score, **through_images)
        if loss.path_length_weight and loss.path_length_interval:
            gain = float(loss.path_length_interval)
            options: dict[str, Any] = dict(gain=gain, carried=path_mean, averages_inside=True)
            specs.append(PhaseSpec("g_path", "g", of.g_path, loss.path_length_interval, **options))
        specs.append(PhaseSpec("d_main", "d", of.d_main, carried=view.carried))
        if any(values_of(loss.r1_gamma)) and loss.r1_interval:
            specs.append(PhaseSpec("d_r1", "d", of.d_r1, loss.r1_interval, gain=float(loss.r1_interval)))
        return specs

    def _losses(self, parts: Parts, view: AugmentedView) -> StyleGan2Phases:
        gamma = self.loss.r1_gamma
        return StyleGan2Phases(
            self.g,
            self.d,
            LatentSampler(
                seed=self.config.run.seed,
                z_dim=self.g.z_dim,
                num_ws=self.g.num_ws,
                noise_shapes=self.g.synthesis.noise_shapes,
                data_labels=parts.data_labels,
                num_classes=self.num_classes,
                style_mixing_prob=self.loss.style_mixing_prob,
            ),
            self.loss,
            seed=self.config.run.seed,
            labels_of_reals=self.gan.mbstd_by_class,
            r1_gamma=parts.scalars.add(lambda images: value_at(gamma, images)),
            path_mean=self.variables["path_mean"],
            view=view,
            score=parts.score,
            mean_over_processes=parts.mean_over_processes,
        )

    def _move_w_avg(self, w_mean: Tensor, bad: Tensor) -> None:
        w_avg = self.g.mapping.w_avg
        w_avg.copy_(torch.where(bad > 0, w_avg, w_mean.lerp(w_avg, self.gan.w_avg_beta)))

    def _set_path_mean(self, path_mean: Tensor, bad: Tensor) -> None:
        variable = self.variables["path_mean"]
        variable.copy_(torch.where(bad > 0, variable, path_mean[0]))

    def options(self) -> dict[str, Any]:
        return generator_options(
            self.gan, resolution=self.resolution, channels=self.channels, num_classes=self.num_classes
        )

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return Generator(**options)

    @classmethod
    def build_discriminator(cls, **options: Any) -> nn.Module:
        return Discriminator(**options)

    @classmethod
    def feature_layers(cls, discriminator: nn.Module) -> Sequence[nn.Module]:
        assert isinstance(discriminator, Discriminator)
        return discriminator.blocks

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> StyleGan2Sampler:
        assert isinstance(module, Generator)
        return StyleGan2Sampler(module, data_labels=data_labels, seed=seed)

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        loss = self.loss
        d_main, g_main, *score = adversarial_costs(flops, self.config.smart)
        lazy = []
        if any(values_of(loss.r1_gamma)) and loss.r1_interval:
            lazy.append(Cost("d_r1", 6 * flops["d"], loss.r1_interval))
        if loss.path_length_interval and loss.path_length_weight:
            lazy.append(Cost("g_path", 6 * flops["g"] / loss.path_length_shrink, loss.path_length_interval))
        return [d_main, g_main, *lazy, *score]
