"""R3GAN's generator and discriminator: ResNeXt stages at every resolution from 4 pixels on, mirrors of each other.

The original networks sit in `Model`; so do these, for the names of their parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartfast.networks.r3gan.layers import (
    Convolution,
    DiscriminativeBasis,
    GenerativeBasis,
    ResidualBlock,
    Transition,
    start_normal,
)


@dataclass(frozen=True)
class R3GanOptions:
    """What both networks of a run share; lists go from 4 pixels up in both.

    widths: Channels of each stage. cardinalities: Groups of its 3x3 convolutions. blocks: Its residual blocks.
    expansion: Channels inside a block over those of its stage. channels: Of the images. classes: 0 = unconditional.
    half_stages: Highest resolutions that compute in half_dtype.
    """

    widths: Sequence[int]
    cardinalities: Sequence[int]
    blocks: Sequence[int]
    expansion: int = 2
    channels: int = 3
    classes: int = 0
    embedding: int = 0
    taps: Sequence[float] = (1, 2, 1)
    half_stages: int = 0
    half_dtype: torch.dtype = torch.float32

    @property
    def resolution(self) -> int:
        """Pixels of the last stage."""
        return 4 * 2 ** (len(self.widths) - 1)

    def residual_blocks(self, stage: int) -> list[nn.Module]:
        """Of a stage."""
        settings = dict(cardinality=self.cardinalities[stage], expansion=self.expansion, blocks=sum(self.blocks))
        return [ResidualBlock(self.widths[stage], **settings) for _ in range(self.blocks[stage])]

    def dtype_of(self, stage: int) -> torch.dtype | None:
        """In which a stage computes where that is not the dtype of its input."""
        return self.half_dtype if stage >= len(self.widths) - self.half_stages else None


class _Stage(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.Layers = nn.ModuleList(layers)
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        if self._dtype is not None and x.ndim == 4:
            x = x.to(self._dtype)
        for layer in self.Layers:
            x = layer(x)
        return x


class _Model(nn.Module):
    """MainLayers in order; `EmbeddingLayer` where there are classes, and one of the others.

    gain: Of the embedding's start.
    """

    EmbeddingLayer: nn.Linear
    AggregationLayer: Convolution
    ExtractionLayer: Convolution

    def __init__(self, stages: Sequence[nn.Module], options: R3GanOptions, gain: float) -> None:
        super().__init__()
        self.MainLayers = nn.ModuleList(stages)
        if options.classes:
            self.EmbeddingLayer = nn.Linear(options.classes, options.embedding, bias=False)
            start_normal(self.EmbeddingLayer.weight, gain)


class Generator(nn.Module):
    """From latents [N, z_dim] and label vectors [N, classes] to images [N, channels, resolution, resolution]."""

    def __init__(self, z_dim: int, options: R3GanOptions) -> None:
        super().__init__()
        self.z_dim, self.options = z_dim, options
        widths = options.widths
        inputs = z_dim + (options.embedding if options.classes else 0)
        stages = []
        for stage, width in enumerate(widths):
            first: nn.Module = GenerativeBasis(inputs, width)
            if stage:
                first = Transition(widths[stage - 1], width, options.taps, up=True)
            stages.append(_Stage([first, *options.residual_blocks(stage)], options.dtype_of(stage)))
        self.Model = _Model(stages, options, gain=1.0)
        self.Model.AggregationLayer = Convolution(widths[-1], options.channels, 1)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Images in float32, or in the dtype of z where that is wider."""
        x = z if c is None else torch.cat([z, self.Model.EmbeddingLayer(c)], dim=1)
        for stage in self.Model.MainLayers:
            x = stage(x)
        return self.Model.AggregationLayer(x).to(z.dtype)


class Discriminator(nn.Module):
    """From images [N, channels, resolution, resolution] and label vectors to logits [N, 1]."""

    def __init__(self, options: R3GanOptions) -> None:
        super().__init__()
        self.options = options
        widths = options.widths
        stages = []
        for stage in reversed(range(len(widths))):
            last: nn.Module = DiscriminativeBasis(widths[0], options.embedding if options.classes else 1)
            if stage:
                last = Transition(widths[stage], widths[stage - 1], options.taps, up=False)
            stages.append(_Stage([*options.residual_blocks(stage), last], options.dtype_of(stage)))
        # The logit is a sum over the embedding: it begins at the size of one feature.
        self.Model = _Model(stages, options, gain=max(options.embedding, 1) ** -0.5)
        self.Model.ExtractionLayer = Convolution(options.channels, widths[-1], 1)

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        x = images
        if (dtype := self.options.dtype_of(len(self.options.widths) - 1)) is not None:
            x = x.to(dtype)
        x = self.Model.ExtractionLayer(x)
        for index, stage in enumerate(self.Model.MainLayers):
            if self.options.dtype_of(len(self.options.widths) - 1 - index) is None:
                x = x.to(images.dtype)
            x = stage(x)
        x = x.to(images.dtype)
        return x if c is None else (x * self.Model.EmbeddingLayer(c)).sum(dim=1, keepdim=True)
