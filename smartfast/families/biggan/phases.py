"""What each phase of BigGAN draws and computes for one round of images.

Pure functions of the round and the networks, but for the buffers of batch norm and spectral norm: each forward pass
moves them once, the generator's in the discriminator's steps as well, and so in every round of accumulation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smartfast.config.families import BigGanLoss
from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.phase import PhaseResult
from smartfast.families.adversarial import discriminator_loss, generator_loss, hinge_loss, orthogonal_penalty
from smartfast.families.augmented import AugmentedView
from smartfast.families.rounds import Round
from smartfast.families.sampling import Sampler
from smartfast.families.score import ScoreRegularity
from smartfast.families.signs import game_signs
from smartfast.networks.biggan import Discriminator, Generator


class BigGanPhases:
    """The phases of one run.

    Args:
        g, d: The trained networks.
        sampler: Draws from `g`.
        loss: The objective.
        view: Images as the discriminator sees them.
        score: Score-matching regularity, None = off.
    """

    def __init__(
        self,
        g: Generator,
        d: Discriminator,
        sampler: Sampler,
        loss: BigGanLoss,
        *,
        view: AugmentedView,
        score: ScoreRegularity | None,
    ) -> None:
        self.g, self.d, self.sampler, self.loss, self.view, self.score = g, d, sampler, loss, view, score

    def d_main(self, batch: Round) -> PhaseResult:
        """The discriminator on fakes and reals."""
        with torch.no_grad():
            drawn, labels = self.sampler.draw(Purpose.D_MAIN, batch.stream, None)
        fakes = self.view(drawn, batch.stream, Purpose.AUGMENT_FAKES)
        reals = self.view(batch.images.detach(), batch.stream, Purpose.AUGMENT_REALS)
        fake_logits, real_logits = self._judge_both(fakes, self._vectors(labels), reals, self._vectors(batch.labels))
        of_both = hinge_loss if self.loss.adversarial == "hinge" else discriminator_loss
        loss_fake, loss_real = (losses.mean() for losses in of_both(fake_logits, real_logits))
        loss = loss_fake + loss_real
        right = torch.cat([fake_logits < 0, real_logits > 0])
        statistics = {
            "loss/d_main": loss.detach(),
            "loss/d_fake": loss_fake.detach(),
            "loss/d_real": loss_real.detach(),
            "logits/fake": fake_logits.detach().mean(),
            "logits/real": real_logits.detach().mean(),
            **game_signs(drawn, labels, batch.images, batch.labels, right=right),
            **self.view.statistics(real_logits),
        }
        return self._regularized(loss, statistics, "d", self.loss.ortho_d, self.d.penalised_weights())

    def g_main(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator."""
        loss, statistics, _, _ = self._adversarial(batch)
        return loss, statistics

    def g_score(self, batch: Round) -> PhaseResult:
        """The generator against the discriminator and the scorer (SMaRt eq. 10), on the same fakes."""
        assert self.score is not None, "g_score runs only where there is a score term"
        loss, statistics, fakes, labels = self._adversarial(batch)
        return self.score.join(loss, statistics, fakes, labels, batch, self._redraw)

    def _adversarial(self, batch: Round) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor | None]:
        """Loss, statistics, fakes and their labels."""
        fakes, labels = self.sampler.draw(Purpose.G_MAIN, batch.stream, None)
        logits = self.d(self.view(fakes, batch.stream, Purpose.AUGMENT_G), self._vectors(labels))
        loss = (-logits if self.loss.adversarial == "hinge" else generator_loss(logits)).mean()
        statistics = {"loss/g_main": loss.detach()}
        weights = self.g.penalised_weights()
        return *self._regularized(loss, statistics, "g", self.loss.ortho_g, weights), fakes, labels

    def _redraw(self, batch: Round) -> tuple[Tensor, Tensor | None]:
        return self.sampler.draw(Purpose.G_SCORE, batch.stream, None)

    def _vectors(self, labels: Tensor | None) -> Tensor:
        vectors = one_hot(labels, self.d.options.classes)
        assert vectors is not None, "checked before: there are classes"
        return vectors

    def _judge_both(self, fakes: Tensor, fake_c: Tensor, reals: Tensor, real_c: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of fakes and reals, in one pass unless loss.split_d."""
        if self.loss.split_d:
            return self.d(fakes, fake_c), self.d(reals, real_c)
        both = self.d(torch.cat([fakes, reals]), torch.cat([fake_c, real_c]))
        fake_logits, real_logits = both.split([len(fakes), len(reals)])
        return fake_logits, real_logits

    def _regularized(
        self, loss: Tensor, statistics: dict[str, Tensor], name: str, weight: float, weights: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """With the orthogonal regularization of a network's weights."""
        if not weight:
            return loss, statistics
        is_full = self.loss.ortho_form == "full"
        penalty = torch.stack([orthogonal_penalty(w, with_lengths=is_full) for w in weights]).sum()
        return loss + weight * penalty, statistics | {f"loss/ortho_{name}": penalty.detach()}
