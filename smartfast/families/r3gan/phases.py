"""What each phase of R3GAN draws and computes for one round of images: pure functions of it and of the networks."""

from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.config.families import R3GanLoss
from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.phase import PhaseResult
from smartfast.families.adversarial import relativistic_loss, squared_difference, squared_gradient
from smartfast.families.augmented import AugmentedView
from smartfast.families.r3gan.sampler import R3GanSampler
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity
from smartfast.families.signs import game_signs
from smartfast.kernels import philox_normal
from smartfast.networks.r3gan import Discriminator


class Judged(NamedTuple):
    """Images [N, C, H, W] that require a gradient, and their logits [N, 1]."""

    images: Tensor
    logits: Tensor


class R3GanPhases:
    """The phases of one run. Each fake is compared with a real image of its own class.

    Args:
        sampler: Draws from the trained generator.
        d: The trained discriminator.
        loss: The objective.
        gamma: Scalar on the device that the run moves.
        seed: Of the run.
        view: Images as the discriminator sees them.
        score: Score-matching regularity, None = off.
    """

    def __init__(
        self,
        sampler: R3GanSampler,
        d: Discriminator,
        loss: R3GanLoss,
        *,
        gamma: Tensor,
        seed: int,
        view: AugmentedView,
        score: ScoreRegularity | None,
    ) -> None:
        self.sampler, self.d, self.loss = sampler, d, loss
        self.gamma, self.seed, self.view, self.score = gamma, seed, view, score

    def d_main(self, batch: Round) -> PhaseResult:
        """Relativistic loss of the discriminator, with R1 on the reals and R2 on the fakes."""
        real, fake = self.judged(batch)
        r1, r2 = self.penalties(real, fake, batch)
        adversarial = relativistic_loss(real.logits, fake.logits).mean()
        right = real.logits > fake.logits
        return adversarial + self.gamma / 2 * (r1.mean() + r2.mean()), {
            "loss/d_main": adversarial.detach(),
            "loss/r1": r1.detach().mean(),
            "loss/r2": r2.detach().mean(),
            "logits/real_minus_fake": (real.logits - fake.logits).detach().mean(),
            **game_signs(fake.images, batch.labels, batch.images, batch.labels, right=right),
            **self.view.statistics(real.logits - fake.logits),
        }

    def judged(self, batch: Round) -> tuple[Judged, Judged]:
        """The reals and the fakes of a discriminator step."""
        with torch.no_grad():
            drawn, _ = self.sampler.draw(Purpose.D_MAIN, batch.stream, batch.labels)
        fakes = drawn + 0 * batch.images  # requires a gradient, which nothing inside a compiled graph can be told to
        of_reals = self._judge(batch.images, batch, Purpose.AUGMENT_REALS)
        return Judged(batch.images, of_reals), Judged(fakes, self._judge(fakes, batch, Purpose.AUGMENT_FAKES))

    def penalties(self, real: Judged, fake: Judged, batch: Round) -> tuple[Tensor, Tensor]:
        """R1 and R2, [N] each: squared gradients of the logits for the images before their augmentation."""
        r1 = self._penalty(real, batch, Purpose.AUGMENT_REALS, Purpose.PENALTY_REALS)
        return r1, self._penalty(fake, batch, Purpose.AUGMENT_FAKES, Purpose.PENALTY_FAKES)

    def g_main(self, batch: Round) -> PhaseResult:
        """Relativistic loss of the generator."""
        loss, statistics, _ = self._adversarial(batch)
        return loss, statistics

    def g_score(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator and the scorer (SMaRt eq. 10), on the same fakes."""
        assert self.score is not None, "g_score runs only where there is a score term"
        loss, statistics, fakes = self._adversarial(batch)
        return self.score.join(loss, statistics, fakes, batch.labels, batch, self._redraw)

    def _adversarial(self, batch: Round) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        fakes, _ = self.sampler.draw(Purpose.G_MAIN, batch.stream, batch.labels)
        fake_logits = self._judge(fakes, batch, Purpose.AUGMENT_G)
        with torch.no_grad():
            real_logits = self._judge(batch.images, batch, Purpose.AUGMENT_REALS_AGAIN)
        loss = relativistic_loss(fake_logits, real_logits).mean()
        return loss, {"loss/g_main": loss.detach()}, fakes

    def _redraw(self, batch: Round) -> tuple[Tensor, Tensor | None]:
        return self.sampler.draw(Purpose.G_SCORE, batch.stream, batch.labels)

    def _judge(self, images: Tensor, batch: Round, purpose: Purpose) -> Tensor:
        return self.d(self.view(images, batch.stream, purpose), one_hot(batch.labels, self.d.options.classes))

    def _penalty(self, judged: Judged, batch: Round, augment: Purpose, purpose: Purpose) -> Tensor:
        images, logits = judged
        if self.loss.penalty == "exact":
            return squared_gradient(logits, images)
        direction = philox_normal(self.seed, batch.stream, images[0].numel(), int(purpose)).view(images.shape)
        moved = self._judge(images.detach() + self.loss.step * direction, batch, augment)
        return squared_difference(moved, logits, self.loss.step)
