"""StyleGAN2's discriminator (Karras et al., arXiv 1912.04958), with projection of the labels."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from smartfast.kernels import downsample2d, setup_filter
from smartfast.networks.stylegan2.layers import (
    DEFAULT_FILTER,
    ConvLayer,
    FullyConnected,
    Mapping,
    block_resolutions,
    feature_maps,
)

Architecture = Literal["skip", "resnet", "orig"]


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """Append the mean standard deviation over groups of samples as feature maps (Karras et al., arXiv 1710.10196).

    Sample n belongs to group n mod (N / group size), as in StyleGAN2.

    Args:
        x: [N, C, H, W].
        group_size: Largest group, None = the batch; N must be a multiple of the group.
        num_channels: Feature maps to append; C must be a multiple of it.

    Returns:
        [N, C + num_channels, H, W].
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    y = x.reshape(group, -1, num_channels, c // num_channels, h, w)
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [groups, num_channels]
    y = y[:, :, None, None].repeat(group, 1, h, w)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class DiscriminatorBlock(nn.Module):
    """All layers at one resolution; halves the resolution."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        img_channels: int,
        *,
        architecture: Architecture,
        act: str,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        half_dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.architecture, self.half_dtype = architecture, half_dtype
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        conv_layer = partial(ConvLayer, act=act, conv_clamp=conv_clamp)
        self.has_fromrgb = in_channels == 0 or architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = conv_layer(img_channels, mid_channels, 1)
        self.conv0 = conv_layer(mid_channels, mid_channels, 3)
        self.conv1 = conv_layer(mid_channels, out_channels, 3, down=2, resample_filter=resample_filter)
        if architecture == "resnet":
            self.skip = ConvLayer(mid_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(self, x: Tensor | None, img: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.half_dtype or self.conv0.weight.dtype
        if x is not None:
            x = x.to(dtype)
        if self.has_fromrgb:
            y = self.fromrgb(img.to(dtype))
            x = y if x is None else x + y
        if self.architecture == "skip":
            img = downsample2d(img, self.resample_filter)
        if self.architecture == "resnet":
            skip = self.skip(x, gain=math.sqrt(0.5))
            return skip + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """The layers at 4x4 pixels and the output."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        img_channels: int,
        *,
        architecture: Architecture,
        mbstd_group: int | None,
        mbstd_channels: int,
        act: str,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.cmap_dim, self.architecture = cmap_dim, architecture
        self.mbstd_group, self.mbstd_channels = mbstd_group, mbstd_channels
        if architecture == "skip":
            self.fromrgb = ConvLayer(img_channels, in_channels, 1, act=act)
        self.conv = ConvLayer(in_channels + mbstd_channels, in_channels, 3, act=act, conv_clamp=conv_clamp)
        self.fc = FullyConnected(in_channels * 16, in_channels, act=act)
        self.out = FullyConnected(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor, cmap: Tensor | None) -> Tensor:
        x = x.to(self.conv.weight.dtype)
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(x.dtype))
        if self.mbstd_channels:
            x = minibatch_std(x, self.mbstd_group, self.mbstd_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return x
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)


class Discriminator(nn.Module):
    """StyleGAN2's discriminator.

    Args:
        c_dim: Dimension of the label vectors, 0 = unconditional.
        resolution: Height and width of the images, a power of two of at least 8.
        channels: Image channels.
        architecture: `resnet` sums features, `skip` feeds downsampled images into every block, `orig` does neither.
        channel_base, channel_max: Feature maps at resolution r are min(channel_base // r, channel_max).
        cmap_dim: Dimension of the mapped labels; None = the feature maps at 4 pixels.
        mapping_layers, embed_features, layer_features, mapping_lr_multiplier: See `Mapping`.
        mbstd_group, mbstd_channels: See `minibatch_std`.
        act, epilogue_act: Activation of the blocks, and of the layers at 4 pixels; None = that of the blocks.
        conv_clamp: Clamp of the layers' outputs; None = off.
        half_resolutions, half_dtype: The highest resolutions that compute in half_dtype (never below 8 pixels).
    """

    def __init__(
        self,
        *,
        c_dim: int,
        resolution: int,
        channels: int,
        architecture: Architecture = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        mapping_act: str = "lrelu",
        mapping_lr_multiplier: float = 0.01,
        mbstd_group: int | None = 4,
        mbstd_channels: int = 1,
        act: str = "lrelu",
        epilogue_act: str | None = None,
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        half_resolutions: int = 0,
        half_dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.c_dim, self.resolution, self.channels = c_dim, resolution, channels
        self.mbstd_group, self.mbstd_channels = mbstd_group, mbstd_channels
        self.resolutions = block_resolutions(resolution)[:0:-1]
        widths = [feature_maps(res, channel_base, channel_max) for res in (*self.resolutions, 4)]
        for i, res in enumerate(self.resolutions):
            block = DiscriminatorBlock(
                widths[i] if i else 0,
                widths[i],
                widths[i + 1],
                channels,
                architecture=architecture,
                act=act,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                half_dtype=half_dtype if i < half_resolutions else None,
            )
            setattr(self, f"b{res}", block)
        cmap_dim = (cmap_dim or widths[-1]) if c_dim else 0
        if c_dim:
            self.mapping = Mapping(
                0,
                c_dim,
                cmap_dim,
                None,
                num_layers=mapping_layers,
                embed_features=embed_features,
                layer_features=layer_features,
                act=mapping_act,
                lr_multiplier=mapping_lr_multiplier,
            )
        self.b4 = DiscriminatorEpilogue(
            widths[-1],
            cmap_dim,
            channels,
            architecture=architecture,
            mbstd_group=mbstd_group,
            mbstd_channels=mbstd_channels,
            act=epilogue_act or act,
            conv_clamp=conv_clamp,
        )

    @property
    def blocks(self) -> list[DiscriminatorBlock]:
        """Those above 4x4 pixels, from the image down."""
        return [getattr(self, f"b{resolution}") for resolution in self.resolutions]

    def image_layers(self) -> list[ConvLayer]:
        """The layers above 4x4 pixels from the image down: fromrgb, conv0, conv1, skip of each block."""
        return [layer for block in self.blocks for layer in block.children() if isinstance(layer, ConvLayer)]

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of images [N, channels, resolution, resolution] and label vectors c [N, c_dim]."""
        cmap = self.mapping(None, c) if self.c_dim else None
        x = None
        for res in self.resolutions:
            x, img = getattr(self, f"b{res}")(x, img)
        return self.b4(x, img, cmap)

    def compare(
        self, fakes: Tensor, fake_c: Tensor | None, reals: Tensor, real_c: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, 1] of fakes and of reals [N, channels, resolution, resolution], from one pass over both.

        Equal to two passes: no group of the minibatch standard deviation holds fakes and reals. One pass over twice
        the images keeps the processor busier and starts half as many operations.
        """
        group = self.mbstd_group if self.mbstd_channels else 1
        if group is None or group > len(fakes):
            return self(fakes, fake_c), self(reals, real_c)

        def merge(a: Tensor, b: Tensor) -> Tensor:
            return torch.stack([a.unflatten(0, (group, -1)), b.unflatten(0, (group, -1))], dim=1).flatten(0, 2)

        assert (fake_c is None) == (real_c is None), "labels of fakes and of reals come together"
        logits = self(merge(fakes, reals), None if fake_c is None or real_c is None else merge(fake_c, real_c))
        fake_logits, real_logits = logits.unflatten(0, (group, 2, -1)).unbind(dim=1)
        return fake_logits.flatten(0, 1), real_logits.flatten(0, 1)
