"""BigGAN's generator and discriminator, for images of 16 to 256 pixels.

Names of tensors are those of ajbrock/BigGAN-PyTorch, whose weights fit. Its smallest images have 32 pixels; the
networks for 16 are ours, those for 32 with a block less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.networks.biggan.layers import (
    Attention,
    BatchNorm,
    BatchStatistics,
    DiscriminatorBlock,
    GeneratorBlock,
    LayerOptions,
)
from smartfast.networks.biggan.spectral import (
    SNConv,
    SNLinear,
    SNTable,
    SpectralNorm,
    SpectralOptions,
    Start,
    Table,
    start_weight,
)

_G_WIDTHS = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
"""Channels over `width` from 4 pixels on, by the resolution of the images."""
_D_WIDTHS = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}
"""Channels over `width` behind each block."""
_D_HALVINGS = {16: 1, 32: 2, 64: 4, 128: 5, 256: 6}
"""First blocks of the discriminator that halve the resolution: down to 8 pixels, or to 4 from 64 pixels on."""
RESOLUTIONS = tuple(_G_WIDTHS)
_BOTTOM = 4


@dataclass(frozen=True)
class BigGanOptions:
    """Of both networks, but where it says which.

    resolution, channels: Of the images. width: Channels of the narrowest layer at 64 pixels and more. classes: At
    least 1. attention: Resolutions with attention behind the block that gives them; the discriminator for 32 pixels
    counts all its blocks as 16. wide: Of the discriminator: blocks are as wide inside as behind. shared_dim: Of the
    generator's embedding of classes that its norms share, 0 = each norm has a table of its own. hierarchical: Each
    block of the generator gets its own piece of the latent. spectral_eps, spectral_vectors, spectral_iterations: See
    `SpectralOptions`. norm_eps, own_norm: See `LayerOptions`. start: How weights begin.
    """

    resolution: int
    width: int
    classes: int
    channels: int = 3
    attention: Sequence[int] = ()
    wide: bool = True
    shared_dim: int = 0
    hierarchical: bool = False
    spectral_eps: float = 1e-6
    spectral_vectors: int = 1
    spectral_iterations: int = 1
    norm_eps: float = 1e-5
    own_norm: bool = False
    start: Start = "normal"

    def __post_init__(self) -> None:
        if self.resolution not in RESOLUTIONS:
            raise ValueError(f"resolution is {self.resolution}, expected one of {', '.join(map(str, RESOLUTIONS))}")
        if self.hierarchical and not self.shared_dim:
            raise ValueError("hierarchical is true, expected a shared_dim of at least 1 with it")

    @property
    def spectral(self) -> SpectralOptions:
        """Of every layer."""
        return SpectralOptions(self.spectral_eps, self.spectral_vectors, self.spectral_iterations)


def latent_slots(resolution: int, *, hierarchical: bool) -> int:
    """Equal pieces that a latent is cut into: the first makes the image of 4 pixels, each block gets another."""
    return len(_G_WIDTHS[resolution]) if hierarchical else 1


class Generator(nn.Module):
    """From latents [N, z_dim] and label vectors [N, classes] to images [N, channels, resolution, resolution].

    Args:
        z_dim: A multiple of the pieces of a hierarchical latent.
        options: Of the network.
        standing: Batches, and images in each, whose mean statistics samples are to be normalised with; None = running
            ones. For who draws them: the network computes the same.
        half_dtype: Of the computation from 4 pixels to before the last tanh; None = that of z.
    """

    def __init__(
        self,
        z_dim: int,
        options: BigGanOptions,
        *,
        standing: Sequence[int] | None = None,
        half_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        slots = latent_slots(options.resolution, hierarchical=options.hierarchical)
        if z_dim < slots or z_dim % slots:
            raise ValueError(f"z_dim is {z_dim}, expected a multiple of the {slots} pieces that it is cut into")
        self.z_dim, self.options, self.standing, self._half_dtype = z_dim, options, standing, half_dtype
        self._piece = z_dim // slots
        widths = [options.width * factor for factor in _G_WIDTHS[options.resolution]]
        layers = LayerOptions(
            spectral=options.spectral,
            norm_eps=options.norm_eps,
            own_norm=options.own_norm,
            shared=options.shared_dim > 0,
            condition=self._condition_size,
        )
        if options.shared_dim:
            self.shared = Table(options.classes, options.shared_dim)
        self.linear = SNLinear(self._piece, widths[0] * _BOTTOM**2, options.spectral)
        self.blocks = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            block = nn.ModuleList([GeneratorBlock(inputs, outputs, layers)])
            if self.attention_resolutions[index] in options.attention:
                block.append(Attention(outputs, options.spectral))
            self.blocks.append(block)
        last = SNConv(widths[-1], options.channels, 3, options.spectral)
        self.output_layer = nn.Sequential(BatchNorm(widths[-1], layers), nn.ReLU(), last)
        _start(self, options.start)

    @property
    def attention_resolutions(self) -> list[int]:
        """Of the images behind each block."""
        return [2 * _BOTTOM << block for block in range(len(_G_WIDTHS[self.options.resolution]) - 1)]

    @property
    def _condition_size(self) -> int:
        if not self.options.shared_dim:
            return self.options.classes
        return self.options.shared_dim + (self._piece if self.options.hierarchical else 0)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Images in (-1, 1), in the dtype of z. Mixed label vectors give what is between the classes."""
        pieces = z.split(self._piece, dim=1)
        shared = self.shared(c) if self.options.shared_dim else c
        x = self.linear(pieces[0]).unflatten(1, (-1, _BOTTOM, _BOTTOM)).to(self._half_dtype or z.dtype)
        for index, block in enumerate(self.blocks):
            condition = torch.cat([shared, pieces[index + 1]], dim=1) if self.options.hierarchical else shared
            x = block[0](x, condition)  # type: ignore[index]
            for attention in block[1:]:  # type: ignore[index]
                x = attention(x)
        return torch.tanh(self.output_layer(x).to(z.dtype))

    def penalised_weights(self) -> list[Tensor]:
        """Those that the orthogonal regularisation acts on: all matrices but the shared embedding."""
        return [p for name, p in self.named_parameters() if p.ndim >= 2 and not name.startswith("shared.")]

    def norms(self) -> dict[str, BatchStatistics]:
        """The batch norms that have buffers, by name."""
        found = ((name, module) for name, module in self.named_modules() if isinstance(module, BatchStatistics))
        return {name: module for name, module in found if "stored_mean" in module._buffers}


class Discriminator(nn.Module):
    """From images [N, channels, resolution, resolution] and label vectors [N, classes] to logits [N, 1] (projection,
    Miyato and Koyama, arXiv 1802.05637).

    Args:
        options: Of the network.
        half_dtype: Of the computation from the image to the last block; None = that of the image.
    """

    def __init__(self, options: BigGanOptions, *, half_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.options, self._half_dtype = options, half_dtype
        layers = LayerOptions(spectral=options.spectral)
        widths = [options.width * factor for factor in _D_WIDTHS[options.resolution]]
        self.blocks = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(zip([options.channels, *widths], widths, strict=False)):
            hidden = outputs if options.wide else inputs
            halves = index < _D_HALVINGS[options.resolution]
            convolutions = DiscriminatorBlock(inputs, hidden, outputs, layers, halves=halves, is_first=index == 0)
            block = nn.ModuleList([convolutions])
            if self.attention_resolutions[index] in options.attention:
                block.append(Attention(outputs, options.spectral))
            self.blocks.append(block)
        self.linear = SNLinear(widths[-1], 1, options.spectral)
        self.embed = SNTable(options.classes, widths[-1], options.spectral)
        _start(self, options.start)

    @property
    def attention_resolutions(self) -> list[int]:
        """Of the images behind each block, as the original counts them."""
        resolution = self.options.resolution
        blocks = range(len(_D_WIDTHS[resolution]))
        if resolution == 32:
            return [16 for _ in blocks]
        return [resolution >> min(block + 1, _D_HALVINGS[resolution]) for block in blocks]

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        x = images.to(self._half_dtype or images.dtype)
        for block in self.blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x)
        features = F.relu(x).to(images.dtype).sum(dim=(2, 3))
        return self.linear(features) + (self.embed(c) * features).sum(dim=1, keepdim=True)

    def penalised_weights(self) -> list[Tensor]:
        """Those that the orthogonal regularisation acts on: all matrices."""
        return [p for p in self.parameters() if p.ndim >= 2]


def _start(network: nn.Module, start: Start) -> None:
    for module in network.modules():
        if start != "normal" and isinstance(module, SpectralNorm | Table):
            start_weight(module.weight, start)
