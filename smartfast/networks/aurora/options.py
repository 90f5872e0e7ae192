"""What Aurora's generator is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FIRST_RESOLUTION = 4
DEFORMABLE_BELOW = 32
"""Pixels from which on no convolution is deformable."""


@dataclass(frozen=True)
class AuroraOptions:
    """Arguments of `Generator`. Lists go from 4 pixels up by doublings, one number for each resolution.

    kernels: Kernels that a convolution mixes for each image, 1 = an ordinary one. blocks: Residual blocks; the first
    one at 4 pixels is the input with a convolution. attention: Depth of the attention behind each block, 0 = none.
    experts: Of its feed-forward layers, below 2 = one layer for all tokens.
    z_dim, w_dim, classes, channels: Of the latents, the labels (0 = unconditional) and the images.
    mapping_layers, mapping_width, mapping_lr_multiplier, embedding: Of the mapping network and the label embedding.
    channel_base, channel_max: Feature maps at resolution r are min(channel_base // r, channel_max).
    heads, head_dim: Of the attention; None = feature maps / heads.
    residual_gain, attention_gain: Factors of what leaves a residual and an attention block.
    l2_attention: By Euclidean distance, else by dot product. tie: Queries are the keys. scale_in: 1 / sqrt(head_dim)
    multiplies queries and keys, each of them, and not the logits.
    feed_forward: Attention has feed-forward layers. gated: They are gated (GEGLU), else plain with GELU.
    context: Width of w as the one token of a cross-attention, 0 = none.
    deformable: Convolutions below 32 pixels move their taps. fourier: The input is of waves, else a constant.
    zero_out: The last projection of an attention block begins at 0.
    final_tanh, conv_clamp: Of the images, and of the layers.
    half_resolutions, half_dtype: The highest resolutions that compute in half_dtype.

    Raises:
        ValueError: Lists of different lengths, or a number that no network has.
    """

    kernels: Sequence[int]
    blocks: Sequence[int]
    attention: Sequence[int]
    experts: Sequence[int]
    z_dim: int = 128
    w_dim: int = 1024
    classes: int = 0
    channels: int = 3
    mapping_layers: int = 4
    mapping_width: int = 1024
    mapping_lr_multiplier: float = 0.01
    embedding: int = 1024
    channel_base: int = 16384
    channel_max: int = 1600
    heads: int = 8
    head_dim: int | None = 64
    residual_gain: float = 0.4
    attention_gain: float = 0.3
    l2_attention: bool = True
    tie: bool = False
    scale_in: bool = False
    feed_forward: bool = True
    gated: bool = True
    context: int = 0
    deformable: bool = True
    fourier: bool = True
    zero_out: bool = True
    taps: Sequence[float] = (1, 3, 3, 1)
    final_tanh: bool = False
    conv_clamp: float | None = None
    half_resolutions: int = 0
    half_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in ("kernels", "attention", "experts"):
            found = getattr(self, name)
            if len(found) != len(self.blocks):
                raise ValueError(f"{name} has {len(found)} numbers, expected {len(self.blocks)}, as many as blocks")
        for name, least in (("kernels", 1), ("blocks", 1), ("attention", 0)):
            if min(getattr(self, name), default=0) < least:
                raise ValueError(f"{name} is {list(getattr(self, name))}, expected numbers of at least {least}")
        for resolution, depth in zip(self.resolutions, self.attention, strict=True):
            width = self.width(resolution)
            if width < 1:
                raise ValueError(f"channel_base is {self.channel_base}, expected at least {resolution}")
            if depth and width % 32:
                raise ValueError(
                    f"attention at {resolution} pixels has {width} feature maps, the smaller of channel_base / "
                    f"{resolution} and channel_max, expected a multiple of 32"
                )
            if depth and self.head_dim is None and width % self.heads:
                raise ValueError(f"heads is {self.heads}, expected a divisor of the {width} feature maps")

    @property
    def resolutions(self) -> list[int]:
        """From 4 pixels up."""
        return [FIRST_RESOLUTION << level for level in range(len(self.blocks))]

    @property
    def resolution(self) -> int:
        """Pixels of the images."""
        return self.resolutions[-1]

    @property
    def num_ws(self) -> int:
        """Copies of w: one for each block, and one for each attention behind it."""
        return sum(n * (2 if depth else 1) for n, depth in zip(self.blocks, self.attention, strict=True))

    def width(self, resolution: int) -> int:
        """Feature maps at `resolution` pixels."""
        return min(self.channel_base // resolution, self.channel_max)

    def dtype_at(self, level: int) -> torch.dtype | None:
        """In which resolution number `level` computes where that is not the dtype of the latents."""
        return self.half_dtype if level >= len(self.blocks) - self.half_resolutions else None
