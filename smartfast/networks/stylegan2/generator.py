"""StyleGAN2's generator (Karras et al., arXiv 1912.04958): mapping network and synthesis network."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smartfast.kernels import setup_filter, upsample2d
from smartfast.networks.stylegan2.layers import (
    DEFAULT_FILTER,
    ConvLayer,
    Mapping,
    StyledConv,
    ToRGB,
    block_resolutions,
    feature_maps,
)

Architecture = Literal["skip", "resnet", "orig"]
Noise = Literal["random", "const", "none"] | Sequence[Tensor]


class SynthesisBlock(nn.Module):
    """All layers at one resolution; doubles the resolution of its input unless it is the first block."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        channels: int,
        *,
        is_last: bool,
        architecture: Architecture,
        use_noise: bool,
        act: str,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        half_dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.is_first, self.architecture, self.half_dtype = in_channels == 0, architecture, half_dtype
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        styled_conv = partial(StyledConv, use_noise=use_noise, act=act, conv_clamp=conv_clamp)
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = styled_conv(
                in_channels, out_channels, w_dim, resolution, up=2, resample_filter=resample_filter
            )
        self.conv1 = styled_conv(out_channels, out_channels, w_dim, resolution)
        self.has_torgb = is_last or architecture == "skip"
        if self.has_torgb:
            self.torgb = ToRGB(out_channels, channels, w_dim, conv_clamp=conv_clamp)
        if not self.is_first and architecture == "resnet":
            self.skip = ConvLayer(in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter)
        self.num_convs = 1 if self.is_first else 2

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Sequence[Tensor], noise: Iterator[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """ws: one [N, w_dim] per layer of the block, the last one for ToRGB."""
        full_dtype = self.conv1.weight.dtype
        x = (self.const.expand(ws[0].shape[0], -1, -1, -1) if x is None else x).to(self.half_dtype or full_dtype)
        if self.is_first:
            x = self.conv1(x, self.conv1.styles(ws[0], x.dtype), next(noise))
        elif self.architecture == "resnet":
            skip = self.skip(x, gain=math.sqrt(0.5))
            x = skip + self._convolve(x, ws, noise, gain=math.sqrt(0.5))
        else:
            x = self._convolve(x, ws, noise)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.has_torgb:
            rgb = self.torgb(x, ws[-1]).to(full_dtype)
            img = rgb if img is None else img + rgb
        return x, img

    def _convolve(self, x: Tensor, ws: Sequence[Tensor], noise: Iterator[Tensor | None], gain: float = 1.0) -> Tensor:
        """conv0 and conv1. Only conv1 reads what conv0 writes, so conv0 applies conv1's styles: one pass less."""
        styles0, styles1 = self.conv0.styles(ws[0], x.dtype), self.conv1.styles(ws[1], x.dtype)
        x = self.conv0(x, styles0, next(noise), next_styles=styles1)
        return self.conv1(x, styles1, next(noise), gain, input_is_scaled=True)


class Synthesis(nn.Module):
    """Latents of the layers to images; see `Generator` for the arguments."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        channels: int,
        *,
        architecture: Architecture,
        channel_base: int,
        channel_max: int,
        use_noise: bool,
        act: str,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        half_resolutions: int,
        half_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.resolutions = block_resolutions(resolution)
        in_channels, self.num_ws = 0, 0
        for i, res in enumerate(self.resolutions):
            is_half = len(self.resolutions) - i <= half_resolutions and res >= 8
            block = SynthesisBlock(
                in_channels,
                feature_maps(res, channel_base, channel_max),
                w_dim,
                res,
                channels,
                is_last=res == resolution,
                architecture=architecture,
                use_noise=use_noise,
                act=act,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                half_dtype=half_dtype if is_half else None,
            )
            setattr(self, f"b{res}", block)
            in_channels = feature_maps(res, channel_base, channel_max)
            self.num_ws += block.num_convs
        self.num_ws += 1  # the last ToRGB; the others share the w of the next block's first layer
        self.use_noise = use_noise

    @property
    def noise_shapes(self) -> list[tuple[int, int]]:
        """Height and width of each layer's noise, in the order in which `forward` takes them."""
        if not self.use_noise:
            return []
        blocks = [(res, getattr(self, f"b{res}")) for res in self.resolutions]
        return [(res, res) for res, block in blocks for _ in range(block.num_convs)]

    def _noise(self, noise: Noise, batch: int) -> Iterator[Tensor | None]:
        if not self.use_noise or noise == "none":
            return iter([None] * self.num_ws)
        if not isinstance(noise, str):
            return iter(noise)
        layers = [m for m in self.modules() if isinstance(m, StyledConv)]
        if noise == "const":
            return iter([layer.noise_const for layer in layers])
        if noise == "random":
            return iter([layer.noise_const.new_empty(batch, 1, *layer.noise_const.shape).normal_() for layer in layers])
        raise ValueError(f"noise is {noise!r}, expected 'random', 'const', 'none' or a sequence of tensors")

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """Images.

        Args:
            ws: [N, num_ws, w_dim].
            noise: `const` (the stored noise), `random` (global generator), `none`, or one unit-normal tensor
                [N, 1, H, W] per layer with the sizes of `noise_shapes`.

        Returns:
            float32 [N, channels, resolution, resolution], in about [-1, 1].
        """
        layer_noise = self._noise(noise, ws.shape[0])
        layer_ws = ws.unbind(dim=1)
        x, first = None, 0
        img: Any = None  # the last block makes an image in every architecture
        for res in self.resolutions:
            block = getattr(self, f"b{res}")
            x, img = block(x, img, layer_ws[first : first + block.num_convs + 1], layer_noise)
            first += block.num_convs
        return img


class Generator(nn.Module):
    """StyleGAN2's generator.

    Args:
        z_dim, c_dim, w_dim: Dimensions of z, of the label vectors (0 = unconditional) and of w.
        resolution: Height and width of the images, a power of two.
        channels: Image channels.
        mapping_layers, embed_features, layer_features, mapping_lr_multiplier: See `Mapping`.
        architecture: How the blocks join: `skip` sums RGB images, `resnet` sums features, `orig` does neither.
        channel_base, channel_max: Feature maps at resolution r are min(channel_base // r, channel_max).
        use_noise: Per-pixel noise in every layer.
        conv_clamp: Clamp of the layers' outputs; None = off.
        half_resolutions, half_dtype: The highest resolutions that compute in half_dtype (never below 8 pixels).
    """

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        resolution: int,
        channels: int,
        mapping_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        mapping_act: str = "lrelu",
        mapping_lr_multiplier: float = 0.01,
        architecture: Architecture = "skip",
        channel_base: int = 32768,
        channel_max: int = 512,
        use_noise: bool = True,
        act: str = "lrelu",
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        half_resolutions: int = 0,
        half_dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.resolution, self.channels = resolution, channels
        self.synthesis = Synthesis(
            w_dim,
            resolution,
            channels,
            architecture=architecture,
            channel_base=channel_base,
            channel_max=channel_max,
            use_noise=use_noise,
            act=act,
            resample_filter=resample_filter,
            conv_clamp=conv_clamp,
            half_resolutions=half_resolutions,
            half_dtype=half_dtype,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(
            z_dim,
            c_dim,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            embed_features=embed_features,
            layer_features=layer_features,
            act=mapping_act,
            lr_multiplier=mapping_lr_multiplier,
        )

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise: Noise = "const",
    ) -> Tensor:
        """Images float32 [N, channels, resolution, resolution] of z [N, z_dim] and label vectors c [N, c_dim]."""
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), noise)
