"""A family of its own in one file: DCGAN (Radford et al., arXiv 1511.06434) with hinge loss and the score term.

`python docs/dcgan.py` trains it on the bundled digits and takes every option of `smartfast train`; the other commands
know it as well: `python docs/dcgan.py generate --checkpoint runs/dcgan`. docs/adding_a_family.md explains it.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smartfast.cli import COMMANDS, main
from smartfast.config.families import FAMILY_SETTINGS, FamilySettings
from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.ranges import Count
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

SETTINGS = """--gan.family=dcgan --run.dir=runs/dcgan --run.kimg=32 --run.snapshot_ticks=4 --data.path=digits
--data.resolution=16 --data.labels=true --smart.scorer=digits --smart.weight=20 --smart.timesteps=[25,250]
--smart.frequency=4 --optim.lr_g=0.001 --optim.lr_d=0.001 --optim.betas=[0,0.99] --optim.ema_kimg=1
--metrics.names=[fid,prc,diversity] --metrics.features=digits --metrics.samples=1797 --metrics.every_ticks=4"""


@dataclass(frozen=True)
class DcganGan(GanSettings):
    """The two networks (DCGAN), for images of 16 pixels."""

    family: Literal["dcgan"] = "dcgan"
    """Which kind of model is trained."""
    z_dim: Count = 64
    """Dimension of the latent z. Default: ours; DCGAN takes 100."""
    width: Count = 32
    """Feature maps at 8 pixels; twice as many at 4. Default: ours."""


@dataclass(frozen=True)
class DcganLoss(LossSettings):
    """The objective (hinge loss)."""

    d_steps: Literal[1, 2, 3, 4, 5] = 2
    """Discriminator steps per generator step, each with images of its own. Default: BigGAN."""


class Generator(nn.Sequential):
    """Images [N, channels, 16, 16] of latents [N, z_dim] and label vectors [N, classes], None without classes."""

    def __init__(self, z_dim: int, width: int, classes: int, channels: int) -> None:
        at4 = [nn.ConvTranspose2d(z_dim + classes, 2 * width, 4, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()]
        at8 = [nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*at4, *at8, nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh())
        self.z_dim, self.classes, self.channels = z_dim, classes, channels

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        return super().forward((z if c is None else torch.cat([z, c], dim=1))[:, :, None, None])


class Discriminator(nn.Sequential):
    """Logits [N, 1]: one for any image, and one per class that the label vector picks (projection, 1802.05637)."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        at8 = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        at4 = [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
        super().__init__(*at8, *at4, nn.Conv2d(2 * width, 1 + classes, 4))

    def forward(self, images: Tensor, c: Tensor | None) -> Tensor:
        logits = super().forward(images).flatten(1)
        return logits if c is None else logits[:, :1] + (logits[:, 1:] * c).sum(dim=1, keepdim=True)


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

    name, averaged, build, sampler, augments = "dcgan", "g", Generator, DcganSampler, True
    panels = (Panel("Hinge loss", "logit", {"loss/d_main": "discriminator", "loss/g_main": "generator"}), SCORE_PANEL)

    @classmethod
    def check_data(cls, config: Config, dataset: ImageDataset) -> None:
        if dataset.resolution != 16:
            raise UserError(f"data.path {config.data.path}: found {dataset.resolution} pixels, expected 16")

    def options(self) -> dict[str, Any]:
        return dict(z_dim=self.gan.z_dim, width=self.gan.width, classes=self.num_classes, channels=self.channels)

    def networks(self) -> dict[str, nn.Module]:
        return {"g": Generator(**self.options()), "d": Discriminator(self.gan.width, self.num_classes, self.channels)}

    def phases(self, parts: Parts) -> list[PhaseSpec]:
        g, d = self.modules.values()
        draw = DcganSampler(g, data_labels=parts.data_labels, seed=self.config.run.seed).draw
        vectors, view = partial(one_hot, num_classes=self.num_classes), self.augmented_view(parts.scalars)

        def d_main(batch: Round) -> PhaseResult:
            with torch.no_grad():
                fakes, labels = draw(Purpose.D_MAIN, batch.stream, None)
            fakes = view(fakes, batch.stream, Purpose.AUGMENT_FAKES)
            reals = view(batch.images, batch.stream, Purpose.AUGMENT_REALS)
            real_logits = d(reals, vectors(batch.labels))
            loss_fake, loss_real = hinge_loss(d(fakes, vectors(labels)), real_logits)
            loss = loss_fake.mean() + loss_real.mean()
            return loss, {"loss/d_main": loss.detach(), **view.statistics(real_logits)}

        def g_main(batch: Round, scored: bool = False) -> PhaseResult:
            fakes, labels = draw(Purpose.G_MAIN, batch.stream, None)
            loss = -d(view(fakes, batch.stream, Purpose.AUGMENT_G), vectors(labels)).mean()
            result = loss, {"loss/g_main": loss.detach()}
            if not scored:
                return result
            return parts.score.join(*result, fakes, labels, batch, lambda of: draw(Purpose.G_SCORE, of.stream, None))

        d_spec = PhaseSpec("d_main", "d", d_main, repeat=self.loss.d_steps, carried=view.carried)
        g_spec = PhaseSpec("g_main", "g", g_main)
        return [d_spec, g_spec, *self.score_phase(parts, partial(g_main, scored=True))]

    def costs(self, flops: dict[str, float]) -> list[Cost]:
        return adversarial_costs(flops, self.config.smart, d_steps=self.loss.d_steps)


FAMILY_SETTINGS["dcgan"] = FamilySettings(DcganGan, DcganLoss)
FAMILIES["dcgan"] = Dcgan

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(given if given and given[0] in COMMANDS else ["train", *SETTINGS.split(), *given]))
