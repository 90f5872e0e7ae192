"""StyleGAN2 as a family: lazy phases, Adam's lazy correction, the mean w and the mean path length."""

import math
from collections.abc import Sequence
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
from smartfast.families.base import Cost, Family, Panel, Parts
from smartfast.families.stylegan2 import checks
from smartfast.families.stylegan2.latents import LatentSampler
from smartfast.families.stylegan2.networks import build_networks, generator_options
from smartfast.families.stylegan2.phases import StyleGan2Phases
from smartfast.families.stylegan2.sampler import StyleGan2Sampler
from smartfast.networks.stylegan2 import Generator


class StyleGan2(Family):
    """See `Family`."""

    name: ClassVar[str] = "stylegan2"
    averaged: ClassVar[str] = "g"
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Discriminator loss", "nats per image", {"loss/d_main": "d_main"}),
        Panel("Generator loss", "nats per image", {"loss/g_main": "g_main"}),
        Panel("Logits (mean)", "logit", {"logits/real": "real images", "logits/fake": "fake images"}),
        Panel("Score term", "squared error, noise variance = 1", {"loss/score": "score"}),
        Panel("R1 penalty", "squared gradient, logit² per image", {"loss/r1": "r1"}),
        Panel("Path-length penalty", "squared deviation of the path length", {"loss/path_length": "path length"}),
    )

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        super().__init__(config, dataset, held_out)
        assert isinstance(config.gan, StyleGan2Gan) and isinstance(config.loss, StyleGan2Loss)
        self.gan, self.loss = config.gan, config.loss
        self.g, self.d = build_networks(
            config.gan,
            resolution=dataset.resolution,
            channels=dataset.channels,
            num_classes=dataset.num_classes,
            precision=config.perf.precision,
            seed=config.run.seed,
        )
        self.modules = {"g": self.g, "d": self.d}
        self.variables = {"path_mean": torch.zeros([])}
        self.interacting = self.gan.mbstd_group if self.gan.mbstd_channels else 1
        self.class_group = self.interacting if self.gan.mbstd_by_class else 1

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        checks.check_settings(config, images_at_a_time)

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        checks.check_data(config, dataset)

    def adam(self, network: str) -> AdamSettings:
        optim, loss = self.config.optim, self.loss
        lr, interval = {
            "g": (optim.lr_g, loss.path_length_interval),
            "d": (optim.lr_d, loss.r1_interval),
        }[network]
        return AdamSettings(
            lr=lambda images: value_at(lr, images),
            betas=optim.betas,
            eps=optim.eps,
            lazy_interval=interval or None,
        )

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        loss, smart = self.loss, self.config.smart
        of = self._losses(parts)
        w_mean = (Carried("w_mean", self.gan.w_dim, self._move_w_avg),)
        path_mean = (Carried("path_mean", 1, self._set_path_mean),)
        through_images: dict[str, Any] = dict(loss_scale=self._loss_scale(), carried=w_mean)
        specs = [PhaseSpec("g_main", "g", of.g_main, **through_images)]
        if parts.score is not None:
            specs.append(PhaseSpec("g_score", "g", of.g_score, smart.frequency, "g_main", **through_images))
        if loss.path_length_weight and loss.path_length_interval:
            gain = float(loss.path_length_interval)
            options: dict[str, Any] = dict(gain=gain, carried=path_mean, averages_inside=True)
            specs.append(PhaseSpec("g_path", "g", of.g_path, loss.path_length_interval, **options))
        specs.append(PhaseSpec("d_main", "d", of.d_main))
        if any(values_of(loss.r1_gamma)) and loss.r1_interval:
            specs.append(PhaseSpec("d_r1", "d", of.d_r1, loss.r1_interval, gain=float(loss.r1_interval)))
        return specs

    def _losses(self, parts: Parts) -> StyleGan2Phases:
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
            score=parts.score,
            mean_over_processes=parts.mean_over_processes,
        )

    def _loss_scale(self) -> float:
        """What brings the gradient of fakes, up to 1 / pixels of the batch for the score term, into fp16's range.

        The root of an image's values: the score term's gradient of a pixel is a small number over it, the
        discriminator's a larger one, and both have room (tests/run/test_half_precision.py).
        """
        if self.config.perf.precision != "fp16":
            return 1.0
        images = self.config.optim.batch_gpu or self.config.optim.batch
        return 2.0 ** round(math.log2(images * math.sqrt(self.channels * self.resolution**2)))

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
    def build(cls, options: dict[str, Any]) -> nn.Module:
        return Generator(**options)

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> StyleGan2Sampler:
        assert isinstance(module, Generator)
        return StyleGan2Sampler(module, data_labels=data_labels, seed=seed)

    def example_inputs(self) -> dict[str, Sequence[Tensor | None]]:
        c = torch.empty(1, self.num_classes) if self.num_classes else None
        return {"g": [torch.empty(1, self.g.z_dim), c], "d": [torch.empty(1, *self.image_shape), c]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        g, d, loss, smart = flops["g"], flops["d"], self.loss, self.config.smart
        costs = [Cost("d_main", g + 6 * d, 1), Cost("g_main", 3 * g + 2 * d, 1)]
        if any(values_of(loss.r1_gamma)) and loss.r1_interval:
            costs.append(Cost("d_r1", 6 * d, loss.r1_interval))
        if loss.path_length_interval and loss.path_length_weight:
            costs.append(Cost("g_path", 6 * g / loss.path_length_shrink, loss.path_length_interval))
        if "scorer" in flops:
            own_pass = 3 * g if smart.separate_pass else 0
            passes = 2 if smart.through_network else 1
            costs.append(Cost("score", smart.batch_fraction * (passes * flops["scorer"] + own_pass), smart.frequency))
        return costs
