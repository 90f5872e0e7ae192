"""Augmentation in a GAN's training: what its phases hand to the discriminator, and the probability that follows it."""

from collections.abc import Callable, Mapping

from torch import Tensor

from smartfast.augment import PIPES
from smartfast.augment.ada import Augmentation
from smartfast.augment.control import controller, new_probability
from smartfast.augment.diff import DiffAugmentation
from smartfast.config.augment import ADA_KIMG, AugmentConfig
from smartfast.config.schedule import Schedule, value_at
from smartfast.core.draws import Purpose
from smartfast.engine.phase import Carried
from smartfast.engine.schedules import DeviceScalars

SIGN = "augment/sign"


def augment_variables(augment: AugmentConfig) -> dict[str, Tensor]:
    """A family's variables that belong to the augmentation: those of ada."""
    if augment.mode != "ada":
        return {}
    assert not isinstance(augment.p, Schedule), "checked before"
    return new_probability(augment.p or 0.0)


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
        scalars: Makes a scheduled probability a scalar on the device.
        seed: Of the run.
        batch: Images of a discriminator step over all processes.
    """

    def __init__(
        self,
        augment: AugmentConfig,
        variables: dict[str, Tensor],
        scalars: DeviceScalars,
        *,
        seed: int,
        batch: int,
    ) -> None:
        self.augment, self._variables, self._batch = augment, variables, batch
        self._change: Callable[[Tensor, Tensor, Purpose], Tensor] | None = None
        if augment.mode == "off":
            return
        if augment.mode == "ada":
            self.p = variables["augment_p"]
        else:
            fixed = 1.0 if augment.p is None else augment.p
            self.p = scalars.add(lambda images: value_at(fixed, images))
        is_diff = augment.pipe == "diff"
        self._change = (
            DiffAugmentation(self.p, seed=seed) if is_diff else Augmentation(PIPES[augment.pipe], self.p, seed=seed)
        )

    def __call__(self, images: Tensor, stream: Tensor, purpose: Purpose) -> Tensor:
        """Images [N, C, H, W] whose numbers are int64 [N], differentiable to every order."""
        return images if self._change is None else self._change(images, stream, purpose)

    def statistics(self, real_logits: Tensor) -> dict[str, Tensor]:
        """What a discriminator step says about p; the sign is carried where p is to follow it."""
        if self._change is None:
            return {}
        p = {"augment/p": self.p.clone()}
        return p | ({SIGN: real_logits.detach().sign().mean()} if self.augment.mode == "ada" else {})

    @property
    def carried(self) -> tuple[Carried, ...]:
        """Of the phase whose statistics these are."""
        augment = self.augment
        if augment.mode != "ada":
            return ()
        move = controller(
            self.p,
            self._variables["augment_window"],
            target=augment.target,
            step=self._batch * augment.interval / ((augment.kimg or ADA_KIMG) * 1000),
            interval=augment.interval,
            max_p=augment.max_p,
        )
        return (Carried(SIGN, 1, move),)
