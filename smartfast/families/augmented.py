"""Augmentation in a GAN's training: what its phases hand to the discriminator, and the probability that follows it."""

from collections.abc import Callable, Mapping

from torch import Tensor

from smartfast.augment import PIPES
from smartfast.augment.ada import Augmentation
from smartfast.augment.control import controller, new_probability
from smartfast.augment.diff import DiffAugmentation
from smartfast.config.augment import AugmentConfig
from smartfast.core.draws import Purpose
from smartfast.engine.phase import Carried

SIGN = "augment/sign"


def start_probability(augment: AugmentConfig) -> float:
    """p at the start of a run."""
    if augment.p is not None:
        return augment.p
    return 1.0 if augment.mode == "fixed" and augment.pipe == "diff" else 0.0


def augment_variables(augment: AugmentConfig) -> dict[str, Tensor]:
    """A family's variables that belong to the augmentation."""
    return {} if augment.mode == "off" else new_probability(start_probability(augment))


def bound_remark(augment: AugmentConfig, row: Mapping[str, float]) -> str | None:
    """What to say where p has reached its bound in a tick."""
    if augment.mode != "ada" or row.get("augment/p", 0.0) < 0.99 * augment.max_p:
        return None
    return (
        f"augment.max_p {augment.max_p:g} holds the probability of augmentation: the discriminator knows the training "
        "images by heart. More images help, or a smaller network; a higher augment.max_p shows in the samples"
    )


class AugmentedView:
    """Images as the discriminator sees them.

    Args:
        augment: Its settings.
        variables: The family's, on the device of the run.
        seed: Of the run.
        batch: Images of a discriminator step over all processes.
    """

    def __init__(self, augment: AugmentConfig, variables: dict[str, Tensor], *, seed: int, batch: int) -> None:
        self.augment, self._variables, self._batch = augment, variables, batch
        self._change: Callable[[Tensor, Tensor, Purpose], Tensor] | None = None
        if augment.mode != "off":
            p = variables["augment_p"]
            pipe = augment.pipe
            self._change = DiffAugmentation(p, seed=seed) if pipe == "diff" else Augmentation(PIPES[pipe], p, seed=seed)

    def __call__(self, images: Tensor, stream: Tensor, purpose: Purpose) -> Tensor:
        """Images [N, C, H, W] whose numbers are int64 [N], differentiable to every order."""
        return images if self._change is None else self._change(images, stream, purpose)

    def statistics(self, real_logits: Tensor) -> dict[str, Tensor]:
        """What a discriminator step says about p; the sign is carried where p is to follow it."""
        if self._change is None:
            return {}
        p = {"augment/p": self._variables["augment_p"].clone()}
        return p | ({SIGN: real_logits.detach().sign().mean()} if self.carried else {})

    @property
    def carried(self) -> tuple[Carried, ...]:
        """Of the phase whose statistics these are."""
        augment = self.augment
        if augment.mode != "ada":
            return ()
        move = controller(
            self._variables["augment_p"],
            self._variables["augment_window"],
            target=augment.target,
            step=self._batch * augment.interval / (augment.kimg * 1000),
            interval=augment.interval,
            max_p=augment.max_p,
        )
        return (Carried(SIGN, 1, move),)
