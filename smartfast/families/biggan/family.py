"""BigGAN as a family: several discriminator steps per generator step, moving buffers in both networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smartfast.config.families import BigGanGan, BigGanLoss
from smartfast.config.schema import Config
from smartfast.core.draws import are_vectors
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseSpec
from smartfast.errors import UserError
from smartfast.families.adversarial import adversarial_costs
from smartfast.families.base import AUGMENT_PANEL, SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.biggan.phases import BigGanPhases
from smartfast.families.biggan.sampler import BigGanSampler
from smartfast.families.imported import weights_of_file
from smartfast.families.start import StartWeights
from smartfast.interop.biggan import main_file
from smartfast.networks.biggan import RESOLUTIONS, BigGanOptions, Discriminator, Generator, latent_slots

_HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class BigGan(Family):
    """See `Family`."""

    gan: BigGanGan
    loss: BigGanLoss
    name: ClassVar[str] = "biggan"
    averaged: ClassVar[str] = "g"
    augments: ClassVar[bool] = True
    takes_vectors: ClassVar[bool] = True
    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Adversarial loss", "logit or nats", {"loss/d_main": "discriminator", "loss/g_main": "generator"}),
        Panel("Logits (mean)", "logit", {"logits/real": "real images", "logits/fake": "fake images"}),
        SCORE_PANEL,
        AUGMENT_PANEL,
        Panel(
            "Orthogonal regularization",
            "half the squared products of rows",
            {"loss/ortho_g": "generator", "loss/ortho_d": "discriminator"},
        ),
    )

    def networks(self) -> dict[str, nn.Module]:
        gan, half = self.gan, _HALF_DTYPES.get(self.config.perf.precision)
        self.g = _generator(half_dtype=half, start=gan.init, **self.options())
        for norm in self.g.norms().values():
            norm.is_synchronised = gan.sync_batch_norm
        self.d = Discriminator(
            BigGanOptions(
                self.resolution,
                gan.width_d,
                self.num_classes,
                channels=self.channels,
                attention=gan.attention_d,
                spectral_eps=gan.spectral_eps,
                start=gan.init,
            ),
            half_dtype=half,
        )
        return {"g": self.g, "d": self.d}

    @classmethod
    def foreign_weights(cls, path: Path) -> StartWeights | None:
        """Of the files of BigGAN-PyTorch, or of a folder with them."""
        return weights_of_file(main_file(path) or path if path.is_dir() else path)

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        gan = config.gan
        assert isinstance(gan, BigGanGan)
        if gan.hierarchical and not gan.shared_dim:
            raise UserError("gan.shared_dim is 0, expected at least 1 with gan.hierarchical true")

    @classmethod
    def idle(cls, config: Config) -> Mapping[str, str]:
        return {"optim.ema_kimg": "loss.ema_decay moves the average of gan.family biggan"}

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        gan, resolution = config.gan, dataset.resolution
        assert isinstance(gan, BigGanGan)
        if resolution not in RESOLUTIONS:
            raise UserError(
                f"data.path {config.data.path}: images are {resolution} pixels wide, expected "
                f"{', '.join(map(str, RESOLUTIONS))} for gan.family biggan (data.resolution resizes the "
                "digits, `smartfast dataset` other images)"
            )
        if not dataset.num_classes:
            raise UserError("data.labels is false, expected true with gan.family biggan: its norms know the class")
        if are_vectors(dataset.labels) and gan.sampling == "standing":
            raise UserError(
                f"gan.sampling is standing, expected running: {dataset.name} has label vectors, and standing batches "
                "have all classes alike"
            )
        empty = _empty_classes(dataset)
        if empty and gan.sampling == "standing":
            raise UserError(
                f"gan.sampling is standing, expected running: {len(empty)} of {dataset.num_classes} classes have no "
                f"image (class {empty[0]} is the first), and standing batches have all classes alike"
            )
        slots = latent_slots(resolution, hierarchical=gan.hierarchical)
        if gan.z_dim < slots:
            raise UserError(f"gan.z_dim is {gan.z_dim}, expected at least {slots}, a number for each piece of z")
        _check_attention("g", gan.attention_g, gan.width_g, dataset)
        _check_attention("d", gan.attention_d, gan.width_d, dataset)

    def phases(self, parts: Parts) -> Sequence[PhaseSpec]:
        view = self.augmented_view(parts.scalars)
        sampler = BigGanSampler(self.g, data_labels=parts.data_labels, seed=self.config.run.seed)
        of = BigGanPhases(self.g, self.d, sampler, self.loss, view=view, score=parts.score)
        inside = self.gan.sync_batch_norm and parts.num_processes > 1
        through_images: dict[str, Any] = dict(loss_scale=self.loss_scale, averages_inside=inside)
        return [
            PhaseSpec("d_main", "d", of.d_main, repeat=self.loss.d_steps, carried=view.carried, averages_inside=inside),
            PhaseSpec("g_main", "g", of.g_main, **through_images),
            *self.score_phase(parts, of.g_score, **through_images),
        ]

    def average_step(self, images: int, batch: int) -> float:
        """1 - loss.ema_decay; a copy before loss.ema_start, unless the run starts from other weights."""
        is_copy = images // batch + 1 < self.loss.ema_start and self.config.run.init_from is None
        return 1.0 if is_copy else 1 - self.loss.ema_decay

    def options(self) -> dict[str, Any]:
        gan = self.gan
        slots = latent_slots(self.resolution, hierarchical=gan.hierarchical)
        standing = [gan.standing_passes, gan.standing_batch]
        return dict(
            z_dim=gan.z_dim // slots * slots,
            standing=standing if gan.sampling == "standing" else None,
            resolution=self.resolution,
            width=gan.width_g,
            classes=self.num_classes,
            channels=self.channels,
            attention=list(gan.attention_g),
            shared_dim=gan.shared_dim,
            hierarchical=gan.hierarchical,
            spectral_eps=gan.spectral_eps,
            norm_eps=gan.norm_eps,
        )

    @classmethod
    def build(cls, **options: Any) -> nn.Module:
        return _generator(**options)

    @classmethod
    def build_discriminator(cls, **options: Any) -> nn.Module:
        return Discriminator(BigGanOptions(**options))

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> BigGanSampler:
        assert isinstance(module, Generator)
        return BigGanSampler(module, data_labels=data_labels, seed=seed)

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        return adversarial_costs(flops, self.config.smart, d_steps=self.loss.d_steps)


def _generator(
    z_dim: int, standing: Sequence[int] | None = None, half_dtype: torch.dtype | None = None, **options: Any
) -> Generator:
    return Generator(z_dim, BigGanOptions(**options), standing=standing, half_dtype=half_dtype)


def _empty_classes(dataset: ImageDataset) -> list[int]:
    """Classes without an image; none of label vectors."""
    if dataset.labels is None or are_vectors(dataset.labels):
        return []
    return sorted(set(range(dataset.num_classes)) - set(dataset.labels.tolist()))


def _check_attention(network: str, attention: Sequence[int], width: int, dataset: ImageDataset) -> None:
    """Against what the network of these data has: attention needs a block of its resolution with enough channels."""
    options = BigGanOptions(dataset.resolution, width, max(dataset.num_classes, 1), attention=attention)
    made: nn.Module
    try:
        with torch.device("meta"):
            made = Generator(1, options) if network == "g" else Discriminator(options)
    except ValueError as error:
        raise UserError(f"gan.width_{network} is {width}: {error}") from error
    known = made.attention_resolutions
    if wrong := [resolution for resolution in attention if resolution not in known]:
        raise UserError(
            f"gan.attention_{network} has {wrong[0]}, expected resolutions out of {', '.join(map(str, known))}"
        )
