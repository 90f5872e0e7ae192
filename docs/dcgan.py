"""A family of its own in one file: DCGAN (Radford et al., arXiv 1511.06434) with hinge loss and the score term.

`python docs/dcgan.py` trains it on the bundled digits and takes every option of `smartfast train`; any other command of
smartfast, such as `python docs/dcgan.py generate runs/dcgan`, knows it as well. docs/adding_a_family.md explains it.
"""

import itertools
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smartfast.cli import COMMANDS, main
from smartfast.config.families import FAMILY_SETTINGS, FamilySettings, GanSettings, LossSettings
from smartfast.config.ranges import require_positive
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.core.draws import Purpose, one_hot
from smartfast.data import ImageDataset
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.adam import AdamSettings
from smartfast.engine.phase import PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.adversarial import hinge_loss
from smartfast.families.base import Cost, Family, Panel, Parts
from smartfast.families.rounds import Round
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.kernels import philox_normal, philox_uniform

SETTINGS = """--gan.family=dcgan --run.dir=runs/dcgan --run.kimg=64 --run.tick_kimg=4 --run.snapshot_ticks=4
--data.resolution=16 --data.labels=true --smart.scorer=digits --smart.weight=20 --smart.timesteps=[25,250]
--smart.frequency=4 --optim.lr_g=0.001 --optim.lr_d=0.001 --optim.betas=[0.5,0.99] --optim.ema_kimg=1
--metrics.features=digits --metrics.names=[fid,prc,diversity] --metrics.samples=1797 --metrics.every_ticks=4"""


@dataclass(frozen=True)
class DcganGan(GanSettings):
    """The two networks (DCGAN)."""

    family: Literal["dcgan"] = "dcgan"
    """Which kind of model is trained."""
    z_dim: int = 64
    """Dimension of the latent z. Default: ours; DCGAN takes 100."""
    width: int = 32
    """Feature maps at half the images' resolution, twice as many at each lower one. Default: ours; DCGAN takes 128."""


@dataclass(frozen=True)
class DcganLoss(LossSettings):
    """The objective (hinge loss)."""

    d_steps: int = 2
    """Discriminator steps per generator step, each with images of its own. Default: BigGAN."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running statistics the averaged generator averages like the weights that they belong to."""

    averaged_buffers = ("running_mean", "running_var")


class Generator(nn.Module):
    """Images [N, channels, resolution, resolution] of latents [N, z_dim] and label vectors [N, classes] or None."""

    def __init__(self, z_dim: int, classes: int, width: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.z_dim, self.classes, self.image_shape = z_dim, classes, (channels, resolution, resolution)
        maps = feature_maps(width, resolution)
        layers: list[nn.Module] = [nn.ConvTranspose2d(z_dim + classes, maps[0], 4), BatchNorm(maps[0]), nn.ReLU()]
        for before, after in itertools.pairwise(maps):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), BatchNorm(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.layers((z if c is None else torch.cat([z, c], dim=1))[:, :, None, None])


class Discriminator(nn.Module):
    """Logits [N, 1]: one for any image, and one per class that its label vector picks (projection, 1802.05637)."""

    def __init__(self, classes: int, width: int, resolution: int, channels: int) -> None:
        super().__init__()
        maps = [channels, *reversed(feature_maps(width, resolution))]
        pairs = itertools.pairwise(maps)
        layers = [nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)) for before, after in pairs]
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps[-1], 1 + classes, 4))

    def forward(self, images: Tensor, c: Tensor | None) -> Tensor:
        logits = self.layers(images).flatten(1)
        return logits if c is None else logits[:, :1] + (logits[:, 1:] * c).sum(dim=1, keepdim=True)


def feature_maps(width: int, resolution: int) -> list[int]:
    """Of the layers at 4, 8, ... pixels up to half the images' resolution."""
    return [width << i for i in reversed(range(resolution.bit_length() - 3))]


class DcganSampler(Sampler):
    """Draws from a generator, for training as well: a DCGAN has z and a label, and nothing else that is random."""

    module: Generator

    def __init__(self, module: Generator, *, data_labels: Tensor | None = None, seed: int = 0) -> None:
        shape: dict[str, Any] = dict(image_shape=module.image_shape, num_classes=module.classes)
        super().__init__(module, data_labels=data_labels, seed=seed, **shape)
        self.z_shape = (module.z_dim,)

    def draw(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        z = philox_normal(self.seed, numbers, self.module.z_dim, purpose)
        if labels is None and self.data_labels is not None:
            which = philox_uniform(self.seed, numbers, 1, purpose + Purpose.CHOICES)[:, 0]
            labels = self.data_labels[(which * len(self.data_labels)).to(torch.int64)]
        return self.images(z, one_hot(labels, self.num_classes), numbers, self.look), labels

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if look != PLAIN:
            raise UserError(f"found {look}, expected {PLAIN}: a DCGAN has neither truncation nor noise")
        return self.module(z, c)


class Dcgan(Family):
    """See `Family`."""

    name, averaged = "dcgan", "g"
    panels = (
        Panel("Hinge loss", "logit", {"loss/d_main": "discriminator", "loss/g_main": "generator"}),
        Panel("Score term", "squared error, noise variance = 1", {"loss/score": "score"}),
    )

    def __init__(self, config: Config, dataset: TrainingImages, held_out: DatasetPart | None = None) -> None:
        super().__init__(config, dataset, held_out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.g = Generator(**self.options())
            self.d = Discriminator(**{name: value for name, value in self.options().items() if name != "z_dim"})
        self.modules = {"g": self.g, "d": self.d}

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        gan, loss = config.gan, config.loss
        require_positive({"gan.z_dim": gan.z_dim, "gan.width": gan.width, "loss.d_steps": loss.d_steps})

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        if (size := dataset.resolution) < 8 or size & (size - 1):
            raise UserError(f"data.path {config.data.path}: images have {size} pixels, expected a power of two from 8")

    def options(self) -> dict[str, Any]:
        shape = dict(classes=self.num_classes, resolution=self.resolution, channels=self.channels)
        return dict(z_dim=self.config.gan.z_dim, width=self.config.gan.width, **shape)

    @classmethod
    def build(cls, options: dict[str, Any]) -> Generator:
        return Generator(**options)

    @classmethod
    def sampler(cls, module: nn.Module, *, data_labels: Tensor | None = None, seed: int = 0) -> DcganSampler:
        return DcganSampler(module, data_labels=data_labels, seed=seed)

    def adam(self, network: str) -> AdamSettings:
        optim = self.config.optim
        lr = {"g": optim.lr_g, "d": optim.lr_d}[network]
        return AdamSettings(lambda images: value_at(lr, images), optim.betas, optim.eps)

    def phases(self, parts: Parts) -> list[PhaseSpec]:
        self.score = parts.score
        self.fakes = self.sampler(self.g, data_labels=parts.data_labels, seed=self.config.run.seed)
        specs = [PhaseSpec("d_main", "d", self.d_main, repeat=self.config.loss.d_steps)]
        specs.append(PhaseSpec("g_main", "g", lambda batch: self.adversarial(batch)[:2]))
        if parts.score is not None:
            specs.append(PhaseSpec("g_score", "g", self.g_score, self.config.smart.frequency, replaces="g_main"))
        return specs

    def d_main(self, batch: Round) -> PhaseResult:
        """Hinge loss of the discriminator on fakes and reals."""
        with torch.no_grad():
            fakes, labels = self.fakes.draw(Purpose.D_MAIN, batch.stream, None)
        real_logits = self.d(batch.images, one_hot(batch.labels, self.num_classes))
        loss_fake, loss_real = hinge_loss(self.d(fakes, one_hot(labels, self.num_classes)), real_logits)
        loss = loss_fake.mean() + loss_real.mean()
        return loss, {"loss/d_main": loss.detach()}

    def adversarial(self, batch: Round) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor | None]:
        """The generator's loss, its statistics, the fakes behind it and their labels."""
        fakes, labels = self.fakes.draw(Purpose.G_MAIN, batch.stream, None)
        loss = -self.d(fakes, one_hot(labels, self.num_classes)).mean()
        return loss, {"loss/g_main": loss.detach()}, fakes, labels

    def g_score(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator and the scorer, on the same fakes."""
        redraw = lambda part: self.fakes.draw(Purpose.G_SCORE, part.stream, None)
        return self.score.join(*self.adversarial(batch), batch, redraw)

    def example_inputs(self) -> dict[str, list[Tensor | None]]:
        c = torch.empty(1, self.num_classes) if self.num_classes else None
        return {"g": [torch.empty(1, self.g.z_dim), c], "d": [torch.empty(1, *self.image_shape), c]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        g, d, share = flops["g"], flops["d"], 1 / self.config.loss.d_steps
        costs = [Cost("d_main", g + 6 * d, 1), Cost("g_main", 3 * g + 2 * d, 1, share)]
        if "scorer" in flops:
            costs.append(Cost("score", 2 * flops["scorer"], self.config.smart.frequency, share))
        return costs


FAMILY_SETTINGS["dcgan"] = FamilySettings(DcganGan, DcganLoss)
FAMILIES["dcgan"] = Dcgan

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(given if given and given[0] in COMMANDS else ["train", *SETTINGS.split(), *given]))
