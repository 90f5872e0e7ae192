"""A diffusers UNet2DModel, frozen: class-conditional or not, with or without a learned variance."""

from typing import Self

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from smartfast.errors import UserError
from smartfast.scorers.attention import AttentionSetting, set_attention
from smartfast.scorers.base import Scorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization


class UNetScorer(Scorer):
    """A frozen UNet2DModel with its noise schedule.

    Runs in `dtype` and channels-last, whatever arrives. In bfloat16 the noised images enter as the sum of two numbers:
    at sigma_t = 0.1 the rounding of one would be a hundredth of the noise that the network is asked for.

    Args:
        unet: The network; it is moved to `device`, converted and frozen in place.
        schedule: alpha_t and sigma_t of every timestep.
        parameterization: What the network was trained to predict.
        device: Where it runs.
        dtype: Precision of weights and activations.
        attention: What computes attention, see `set_attention`.
        where: Name of the model, for messages.

    Raises:
        UserError: The network is not square, has another kind of conditioning, or odd output channels; attention that
            does not run on the device.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        schedule: NoiseSchedule,
        *,
        parameterization: Parameterization,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attention: AttentionSetting = "auto",
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
        # nn.Module's own: diffusers' `to` logs a warning for every conversion. torch's hints lack its memory_format.
        self.unet = nn.Module.to(unet, device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if dtype == torch.bfloat16 and not any(hasattr(block, "skip_conv") for block in self.unet.down_blocks):
            self.unet.conv_in = _TwoTermConv.of(self.unet.conv_in)
        self.attention = str(set_attention(self.unet, attention, device=device, dtype=dtype))
        self.to(device).freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        dtype = torch.float32 if isinstance(self.unet.conv_in, _TwoTermConv) else self.dtype
        x_t = x_t.to(dtype, memory_format=torch.channels_last)
        output = self.unet(x_t, t, class_labels=labels if self.num_classes else None, return_dict=False)[0]
        return output[:, : self.channels]


class _TwoTermConv(nn.Conv2d):
    """A half-precision convolution of float32 images [N, C, H, W], which it takes as 2 C channels: x = high + low."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """What computes the same as `conv`, of images with more digits than its precision holds."""
        # torch's hints say of a convolution's sizes only that they are tuples, and take pairs.
        wide = cls(2 * conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, device="meta")  # type: ignore[arg-type]
        weight = torch.cat([conv.weight, conv.weight], dim=1).to(memory_format=torch.channels_last)
        wide.weight, wide.bias = nn.Parameter(weight), conv.bias
        return wide

    def forward(self, x: Tensor) -> Tensor:
        high = x.detach().to(self.weight.dtype)
        # The gradient flows through this term alone, whose weight is the other's.
        low = (x - high).to(self.weight.dtype)
        return super().forward(torch.cat([high, low], dim=1))


def _square_size(sample_size: int | tuple[int, int] | list[int] | None, where: str) -> int:
    sizes = {sample_size} if isinstance(sample_size, int) else set(sample_size or ())
    if len(sizes) != 1:
        raise UserError(f"{where}: sample_size is {sample_size}, expected one number or a square")
    return sizes.pop()
