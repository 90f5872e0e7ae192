"""A diffusers UNet2DModel, frozen: class-conditional or not, with or without a learned variance."""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from smartfast.errors import UserError
from smartfast.scorers.base import Scorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization


class UNetScorer(Scorer):
    """A frozen UNet2DModel with its noise schedule.

    Runs in `dtype` and channels-last, whatever arrives. diffusers' attention layers call PyTorch's fused attention.

    Args:
        unet: The network; it is moved to `device`, converted and frozen in place.
        schedule: alpha_t and sigma_t of every timestep.
        parameterization: What the network was trained to predict.
        device: Where it runs.
        dtype: Precision of weights and activations.
        where: Name of the model, for messages.

    Raises:
        UserError: The network is not square, has another kind of conditioning, or odd output channels.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        schedule: NoiseSchedule,
        *,
        parameterization: Parameterization,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        where: str = "scorer",
    ) -> None:
        config = unet.config
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise UserError(
                f"{where}: out_channels is {config.out_channels}, "
                f"expected in_channels ({config.in_channels}) or, with a learned variance, twice that"
            )
        if config.class_embed_type is not None:
            raise UserError(f"{where}: class_embed_type is {config.class_embed_type!r}, expected null")
        super().__init__(
            schedule,
            resolution=_square_size(config.sample_size, where),
            channels=config.in_channels,
            num_classes=config.num_class_embeds or 0,
            parameterization=parameterization,
            dtype=dtype,
        )
        # nn.Module's own: diffusers' `to` logs a warning for every conversion.
        self.unet = nn.Module.to(unet, device=device, dtype=dtype, memory_format=torch.channels_last)
        self.to(device).freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        x_t = x_t.to(self.dtype, memory_format=torch.channels_last)
        output = self.unet(x_t, t, class_labels=labels if self.num_classes else None, return_dict=False)[0]
        return output[:, : self.channels]


def _square_size(sample_size: int | tuple[int, int] | list[int] | None, where: str) -> int:
    sizes = {sample_size} if isinstance(sample_size, int) else set(sample_size or ())
    if len(sizes) != 1:
        raise UserError(f"{where}: sample_size is {sample_size}, expected one number or a square")
    return sizes.pop()
