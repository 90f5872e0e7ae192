"""A variational autoencoder as a family, whose samples the score term pulls to the data: SMaRt's question beyond GANs.

One phase trains encoder and decoder by the evidence lower bound (Kingma and Welling, arXiv 1312.6114). The term acts on
what is decoded of latents that are drawn from the prior, which the bound itself never sees.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.schema import Config
from smartfast.config.small_families import VaeGan, VaeLoss
from smartfast.core.draws import Purpose, one_hot
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families.base import SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.rounds import Round
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.kernels import philox_normal
from smartfast.networks.vae import Autoencoder


class VaeSampler(Sampler):
    """Decodes latents of the prior; see `Sampler`."""

    module: Autoencoder

    def __init__(self, module: Autoencoder, **options: Any) -> None:
        shape = (module.channels, module.resolution, module.resolution)
        super().__init__(module, image_shape=shape, num_classes=module.classes, **options)
        self.z_shape = (module.z_dim,)

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if look != PLAIN:
            raise UserError("truncation_psi, truncation_cutoff, noise: an autoencoder has none of them")
        return self.module.decode(z, c)


class Vae(Family):
    """See `Family`."""

    gan: VaeGan
    loss: VaeLoss
    name: ClassVar[str] = "vae"
    averaged: ClassVar[str] = "g"
    takes_vectors: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Evidence lower bound", "nats per image", {"vae/distortion": "images", "vae/rate": "latents"}),
        Panel("Images decoded again", "squared error per pixel", {"vae/error": "error"}),
        SCORE_PANEL,
    )

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        assert isinstance(config.gan, VaeGan)
        if config.perf.precision in ("fp16", "bf16"):
            raise UserError(f"perf.precision is {config.perf.precision}, expected fp32 or tf32 with gan.family vae")
        if config.gan.width % 8:
            raise UserError(f"gan.width is {config.gan.width}, expected a multiple of 8 with gan.family vae")
        if config.smart.frequency and config.smart.balance is not None:
            raise UserError(
                "smart.balance is set, expected null with gan.family vae: its bound has no gradient at the samples"
            )

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        if dataset.resolution < 8:
            raise UserError(
                f"data.path {config.data.path}: found {dataset.resolution} pixels, expected at least 8 with gan.family "
                "vae"
            )

    def options(self) -> dict[str, Any]:
        sizes = dict(resolution=self.resolution, channels=self.channels, classes=self.num_classes)
        return sizes | dict(z_dim=self.gan.z_dim, width=self.gan.width)

    def networks(self) -> dict[str, nn.Module]:
        return {"g": Autoencoder(**self.options())}

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return Autoencoder(**options)

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> VaeSampler:
        assert isinstance(module, Autoencoder)
        return VaeSampler(module, data_labels=data_labels, seed=seed)

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        g, seed = self.modules["g"], self.config.run.seed
        assert isinstance(g, Autoencoder)
        draw, variance = self.sampler(g, data_labels=parts.data_labels, seed=seed).draw, self.loss.pixel_std**2

        def g_main(batch: Round) -> PhaseResult:
            images, c = batch.images.detach(), one_hot(batch.labels, self.num_classes)
            mean, log_variance = g.encode(images, c)
            noise = philox_normal(seed, batch.stream, g.z_dim, int(Purpose.G_MAIN))
            squared = (g.decode(mean + (log_variance / 2).exp() * noise, c) - images).square()
            distortion = squared.sum(dim=(1, 2, 3)).mean() / (2 * variance)
            rate = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2
            error = squared.mean().detach()
            statistics = {"vae/distortion": distortion.detach(), "vae/rate": rate.detach(), "vae/error": error}
            loss = (distortion + rate) / math.prod(self.image_shape)
            return loss, {"loss/g_main": loss.detach(), **statistics}

        def g_score(batch: Round) -> PhaseResult:
            assert parts.score is not None, "g_score runs only where there is a score term"
            fakes, labels = draw_scored(batch)
            return parts.score.join(*g_main(batch), fakes, labels, batch, draw_scored)

        def draw_scored(batch: Round) -> tuple[Tensor, Tensor | None]:
            return draw(Purpose.G_SCORE, batch.stream, None)

        return [PhaseSpec("g_main", "g", g_main), *self.score_phase(parts, g_score)]

    def example_inputs(self) -> dict[str, Sequence[Tensor | None]]:
        """An image and a label vector: both halves of the network."""
        c = torch.empty(1, self.num_classes) if self.num_classes else None
        return {"g": [torch.empty(1, *self.image_shape), c]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        """The term decodes samples of its own, about half of the network."""
        costs, smart = [Cost("g_main", 3 * flops["g"], 1)], self.config.smart
        if "scorer" in flops:
            passes = 2 if smart.through_network else 1
            score = smart.batch_fraction * passes * flops["scorer"] + 1.5 * flops["g"]
            costs.append(Cost("score", score, smart.frequency))
        return costs
