"""A family of its own in one file: DCGAN (Radford et al., arXiv 1511.06434) with hinge loss and the score term.

`python docs/dcgan.py` trains it on the bundled digits and takes every option of `smartfast train`; any other command of
smartfast, such as `python docs/dcgan.py generate runs/dcgan`, knows it as well. docs/adding_a_family.md explains it.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smartfast.cli import COMMANDS, main
from smartfast.config.families import FAMILY_SETTINGS, FamilySettings, GanSettings, LossSettings
from smartfast.config.ranges import require_positive
from smartfast.config.schema import Config
from smartfast.core.draws import Purpose, one_hot
from smartfast.data import ImageDataset
from smartfast.engine.phase import PhaseResult, PhaseSpec
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.adversarial import adversarial_costs, hinge_loss
from smartfast.families.base import SCORE_PANEL, Cost, Family, Panel, Parts
from smartfast.families.rounds import Round
from smartfast.families.sampling import PLAIN, Look, Sampler
from smartfast.families.score import ScoreRegularity

SETTINGS = """--gan.family=dcgan --run.dir=runs/dcgan --run.kimg=64 --run.snapshot_ticks=4 --data.path=digits
--data.resolution=16 --data.labels=true --smart.scorer=digits --smart.weight=20 --smart.timesteps=[25,250]
--smart.frequency=4 --optim.lr_g=0.001 --optim.lr_d=0.001 --optim.betas=[0.5,0.99] --optim.ema_kimg=1
--metrics.names=[fid,prc,diversity] --metrics.features=digits --metrics.samples=1797 --metrics.every_ticks=4"""


@dataclass(frozen=True)
class DcganGan(GanSettings):
    """The two networks (DCGAN), for images of 16 pixels."""

    family: Literal["dcgan"] = "dcgan"
    """Which kind of model is trained."""
    z_dim: int = 64
    """Dimension of the latent z. Default: ours; DCGAN takes 100."""
    width: int = 32
    """Feature maps at 8 pixels; twice as many at 4. Default: ours."""


@dataclass(frozen=True)
class DcganLoss(LossSettings):
    """The objective (hinge loss)."""

    d_steps: int = 2
    """Discriminator steps per generator step, each with images of its own. Default: BigGAN."""


class Generator(nn.Module):
    """Images [N, channels, 16, 16] of latents [N, z_dim] and label vectors [N, classes], None without classes."""

    def __init__(self, z_dim: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.z_dim, self.classes, self.channels = z_dim, classes, channels
        at4 = [nn.ConvTranspose2d(z_dim + classes, 2 * width, 4), nn.BatchNorm2d(2 * width), nn.ReLU()]
        at8 = [nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*at4, *at8, nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.layers((z if c is None else torch.cat([z, c], dim=1))[:, :, None, None])


class Discriminator(nn.Module):
    """Logits [N, 1] of images and labels int64 [N] or None: one for any image plus one for its class."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        at8 = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        at4 = [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*at8, *at4, nn.Conv2d(2 * width, 1 + classes, 4))

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        logits = self.layers(images).flatten(1)
        return logits if labels is None else logits[:, :1] + logits.gather(1, 1 + labels[:, None])


class DcganSampler(Sampler):
    """Draws from a generator, in training as well: a latent and a label are all that is random."""

    def __init__(self, module: Generator, **options: Any) -> None:
        super().__init__(module, image_shape=(module.channels, 16, 16), num_classes=module.classes, **options)
        self.z_shape = (module.z_dim,)

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if look != PLAIN:
            raise UserError(f"found {look}, expected {PLAIN}: a DCGAN has neither truncation nor noise")
        return self.module(z, c)


class Dcgan(Family):
    """See `Family`."""

    name, averaged, sampler = "dcgan", "g", DcganSampler
    panels = (Panel("Hinge loss", "logit", {"loss/d_main": "discriminator", "loss/g_main": "generator"}), SCORE_PANEL)

    @classmethod
    def check_settings(cls, config: Config, images_at_a_time: int) -> None:
        require_positive({f"gan.{name}": getattr(config.gan, name) for name in ("z_dim", "width")})
        require_positive({"loss.d_steps": config.loss.d_steps})

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        if dataset.resolution != 16:
            raise UserError(f"data.path {config.data.path}: found {dataset.resolution} pixels, expected 16")

    def options(self) -> dict[str, Any]:
        gan = self.config.gan
        return dict(z_dim=gan.z_dim, width=gan.width, classes=self.num_classes, channels=self.channels)

    @classmethod
    def build(cls, options: dict[str, Any]) -> Generator:
        return Generator(**options)

    def networks(self) -> dict[str, nn.Module]:
        discriminator = Discriminator(self.config.gan.width, self.num_classes, self.channels)
        return {"g": Generator(**self.options()), "d": discriminator}

    def phases(self, parts: Parts) -> list[PhaseSpec]:
        g, d = self.modules.values()
        draw = DcganSampler(g, data_labels=parts.data_labels, seed=self.config.run.seed).draw

        def d_main(batch: Round) -> PhaseResult:
            with torch.no_grad():
                fakes, labels = draw(Purpose.D_MAIN, batch.stream, None)
            loss_fake, loss_real = hinge_loss(d(fakes, labels), d(batch.images, batch.labels))
            loss = loss_fake.mean() + loss_real.mean()
            return loss, {"loss/d_main": loss.detach()}

        def g_main(batch: Round, score: ScoreRegularity | None = None) -> PhaseResult:
            fakes, labels = draw(Purpose.G_MAIN, batch.stream, None)
            loss = -d(fakes, labels).mean()
            result = loss, {"loss/g_main": loss.detach()}
            return score.join(*result, fakes, labels, batch, redraw) if score else result

        def redraw(batch: Round) -> tuple[Tensor, Tensor | None]:
            return draw(Purpose.G_SCORE, batch.stream, None)

        specs = [PhaseSpec("d_main", "d", d_main, repeat=self.config.loss.d_steps), PhaseSpec("g_main", "g", g_main)]
        if parts.score:
            g_score = partial(g_main, score=parts.score)
            specs.append(PhaseSpec("g_score", "g", g_score, self.config.smart.frequency, replaces="g_main"))
        return specs

    def example_inputs(self) -> dict[str, list[Tensor | None]]:
        labels = torch.zeros(1, dtype=torch.int64) if self.num_classes else None
        z, images = torch.empty(1, self.config.gan.z_dim), torch.empty(1, *self.image_shape)
        return {"g": [z, one_hot(labels, self.num_classes)], "d": [images, labels]}

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        return adversarial_costs(flops, self.config.smart, d_steps=self.config.loss.d_steps)


FAMILY_SETTINGS["dcgan"] = FamilySettings(DcganGan, DcganLoss)
FAMILIES["dcgan"] = Dcgan

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(given if given and given[0] in COMMANDS else ["train", *SETTINGS.split(), *given]))
