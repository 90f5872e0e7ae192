"""What the scorers have in common whose networks are SmartFast's own: ADM's, EDM's and EDM2's."""

import torch
from torch import nn

from smartfast.errors import UserError
from smartfast.networks.unets import ADM, EDM2, Denoiser, prepare
from smartfast.scorers.attention import AttentionChoice, AttentionSetting
from smartfast.scorers.base import Scorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization


class PreparedScorer(Scorer):
    """A frozen network of `smartfast.networks.unets` with its noise schedule.

    Its predictions are float32 (float64 of a network in float64): the last convolution is, see `prepare`.

    Args:
        network: With its weights loaded; it is moved to `device` and prepared in place.
        schedule: alpha_t and sigma_t of every timestep.
        parameterization: What the network predicts.
        null_class: The last class where it stands for any class, which the network does not say, or one more where
            the network `takes_no_class`; None = none.
        device: Where it runs.
        dtype: Precision of convolutions and attention.
        attention: PyTorch's is the only one.
        where: Name of the model, for messages.

    Raises:
        UserError: Another null class, or xformers' attention.
    """

    unet: nn.Module

    def __init__(
        self,
        network: ADM | Denoiser | EDM2,
        schedule: NoiseSchedule,
        *,
        parameterization: Parameterization,
        null_class: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attention: AttentionSetting = "auto",
        where: str = "scorer",
    ) -> None:
        classes = network.options.classes
        if null_class is not None and (null_class < 1 or null_class not in self._null_classes(classes)):
            last = f"{classes - 1}, the last of its classes" if classes else "null: it has no classes"
            none = f", or {classes}, which is no class" if classes and self.takes_no_class else ""
            raise UserError(f"smart.null_class is {null_class}, expected of {where} {last}{none}")
        if attention == "xformers":
            raise UserError(f"perf.attention is xformers, expected auto or sdpa, the only one that {where} has")
        super().__init__(
            schedule,
            image_shape=network.options.image_shape,
            num_classes=classes if null_class is None else null_class,
            null_class=null_class,
            parameterization=parameterization,
            dtype=dtype,
        )
        self.unet = prepare(network.to(device), dtype)
        self.attention = str(
            AttentionChoice("sdpa", f"the only one of a network of the kind {network.options.network}")
        )
        self.to(device).freeze()

    def _null_classes(self, classes: int) -> range:
        return range(max(classes - 1, 1), classes + (classes > 0 and self.takes_no_class))
