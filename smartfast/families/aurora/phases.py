"""What each phase of Aurora draws and computes for one round of images: pure functions of it and of the networks.

Only the losses of the experts are Aurora's own. Its discriminator and objective are not public: those here are ours,
StyleGAN2's discriminator, the non-saturating logistic loss and lazy R1, without path length and style mixing, as
GigaGAN trains (Kang et al., arXiv 2303.05511).
"""

import torch
from torch import Tensor

from smartfast.config.families import AuroraLoss
from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.phase import PhaseResult
from smartfast.families.adversarial import generator_loss
from smartfast.families.augmented import AugmentedView
from smartfast.families.aurora.sampler import AuroraSampler
from smartfast.families.logistic import logistic_step, r1_step
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity
from smartfast.networks.aurora import Routing
from smartfast.networks.stylegan2 import Discriminator


class AuroraPhases:
    """The phases of one run.

    Args:
        sampler: Draws from the trained generator.
        d: The trained discriminator.
        loss: The objective.
        r1_gamma: Scalar on the device that the run moves.
        view: Images as the discriminator sees them.
        score: Score-matching regularity, None = off.
    """

    def __init__(
        self,
        sampler: AuroraSampler,
        d: Discriminator,
        loss: AuroraLoss,
        *,
        r1_gamma: Tensor,
        view: AugmentedView,
        score: ScoreRegularity | None,
    ) -> None:
        self.sampler, self.g, self.d = sampler, sampler.module, d
        self.loss, self.r1_gamma, self.view, self.score = loss, r1_gamma, view, score

    def g_main(self, batch: Round) -> PhaseResult:
        """Non-saturating logistic loss of the generator, with the losses of its experts."""
        loss, statistics, _, _ = self._adversarial(batch)
        return loss, statistics

    def g_score(self, batch: Round) -> PhaseResult:
        """The same with the score term (SMaRt eq. 15), on the same fakes."""
        assert self.score is not None, "g_score runs only where there is a score term"
        loss, statistics, fakes, labels = self._adversarial(batch)
        return self.score.join(loss, statistics, fakes, labels, batch, self._redraw)

    def d_main(self, batch: Round) -> PhaseResult:
        """Logistic loss of the discriminator on fakes and reals."""
        with torch.no_grad():
            fakes, labels = self.sampler.draw(Purpose.D_MAIN, batch.stream, None)
        return logistic_step(self.d, self.view, batch, fakes, labels, classes=self.g.options.classes)

    def d_r1(self, batch: Round) -> PhaseResult:
        """R1 regularization of the discriminator on the reals."""
        return r1_step(self.d, self.view, batch, self._c(batch.labels), self.r1_gamma)

    def _adversarial(self, batch: Round) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor | None]:
        """Loss, statistics, fakes and their labels."""
        w, labels = self.sampler.w(Purpose.G_MAIN, batch.stream, None)
        fakes, routing = self.g.synthesis(self.g.spread(w))
        seen = self.view(fakes, batch.stream, Purpose.AUGMENT_G)
        adversarial = generator_loss(self.d(seen, self._c(labels))).mean()
        statistics = {"loss/g_main": adversarial.detach(), "w_mean": w.detach().mean(dim=0)}
        if routing is None:
            return adversarial, statistics, fakes, labels
        loss = adversarial + self.loss.balance_weight * routing.balance + self.loss.router_weight * routing.z
        return loss, statistics | _statistics(routing), fakes, labels

    def _redraw(self, batch: Round) -> tuple[Tensor, Tensor | None]:
        return self.sampler.draw(Purpose.G_SCORE, batch.stream, None)

    def _c(self, labels: Tensor | None) -> Tensor | None:
        return one_hot(labels, self.g.options.classes)


def _statistics(routing: Routing) -> dict[str, Tensor]:
    return {
        "loss/balance": routing.balance.detach(),
        "loss/router": routing.z.detach(),
        "experts/busiest": routing.busiest,
        "experts/idlest": routing.idlest,
        "experts/entropy": routing.entropy,
    }
