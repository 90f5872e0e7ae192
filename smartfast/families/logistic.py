"""The steps of StyleGAN2's discriminator in the logistic game, whatever draws the fakes."""

import torch
from torch import Tensor

from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.phase import PhaseResult
from smartfast.families.adversarial import discriminator_loss, r1_penalty
from smartfast.families.augmented import AugmentedView
from smartfast.families.rounds import Round
from smartfast.families.signs import game_signs
from smartfast.networks.stylegan2 import Discriminator


def logistic_step(
    d: Discriminator, view: AugmentedView, batch: Round, fakes: Tensor, labels: Tensor | None, *, classes: int
) -> PhaseResult:
    """Logistic loss of the discriminator on fakes [N, C, H, W] and the reals of a round.

    Args:
        view: Images as the discriminator sees them.
        labels: Of the fakes, int64 [N], vectors [N, classes] or None.
        classes: Length of a label vector.
    """
    seen = view(fakes, batch.stream, Purpose.AUGMENT_FAKES)
    # Detached, so that frozen layers keep nothing for a backward pass.
    reals = view(batch.images.detach(), batch.stream, Purpose.AUGMENT_REALS)
    fake_logits, real_logits = d.compare(seen, one_hot(labels, classes), reals, one_hot(batch.labels, classes))
    loss_fake, loss_real = discriminator_loss(fake_logits, real_logits)
    loss = loss_fake.mean() + loss_real.mean()
    right = torch.cat([fake_logits < 0, real_logits > 0])
    return loss, {
        "loss/d_main": loss.detach(),
        "logits/fake": fake_logits.detach().mean(),
        "logits/real": real_logits.detach().mean(),
        **game_signs(fakes, labels, batch.images, batch.labels, right=right),
        **view.statistics(real_logits),
    }


def r1_step(d: Discriminator, view: AugmentedView, batch: Round, c: Tensor | None, gamma: Tensor) -> PhaseResult:
    """gamma / 2 times R1 of the discriminator on the reals, whose gradient passes through their augmentation."""

    def seen(reals: Tensor, c: Tensor | None) -> Tensor:
        return d(view(reals, batch.stream, Purpose.AUGMENT_REALS_AGAIN), c)

    penalty = r1_penalty(seen, batch.images, c).mean()
    return penalty * (gamma / 2), {"loss/r1": penalty.detach()}
