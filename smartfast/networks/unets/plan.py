"""The one shape that all of these UNets have: which blocks follow each other, and how wide they are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from smartfast.networks.unets.layers import Resampling

MOST_BLOCKS = 1000
"""Per resolution; a file may ask for a list of them that no memory holds. Trained networks have 1 to 8."""


@dataclass(frozen=True)
class Step:
    """One block.

    role: conv (of the images), down, up, in0, in1 (in the middle) or block{i}.
    resolution: Height and width of its output in pixels.
    in_channels: With those of the encoder's output that the block takes.
    takes_skip: Whether it takes one.
    """

    role: str
    resolution: int
    in_channels: int
    out_channels: int
    attention: bool = False
    takes_skip: bool = False

    @property
    def name(self) -> str:
        """As EDM and EDM2 call it."""
        return f"{self.resolution}x{self.resolution}_{self.role}"

    @property
    def resampling(self) -> Resampling | None:
        return "up" if self.role == "up" else "down" if self.role == "down" else None


def plan_unet(
    *,
    resolution: int,
    in_channels: int,
    first_width: int,
    widths: Sequence[int],
    num_blocks: int,
    attention: Collection[int],
    decoder_attention: Collection[int] | None = None,
) -> tuple[list[Step], list[Step]]:
    """The blocks of encoder and decoder in order; every output of the encoder is taken once, the last one first.

    Args:
        resolution: Height and width of the images.
        in_channels: Channels of the images.
        first_width: Channels after the first convolution.
        widths: Channels at each resolution, each half the one before.
        num_blocks: Blocks per resolution of the encoder; the decoder has one more.
        attention: Resolutions with attention in every block.
        decoder_attention: Indices of the blocks of the decoder that have it; None = all.

    Raises:
        ValueError: More than MOST_BLOCKS.
    """
    if num_blocks > MOST_BLOCKS:
        raise ValueError(f"{num_blocks} blocks per resolution, expected at most {MOST_BLOCKS}")
    encoder: list[Step] = []
    for level, width in enumerate(widths):
        size, last = resolution >> level, encoder[-1].out_channels if encoder else in_channels
        first = Step("down", size, last, last) if level else Step("conv", size, last, first_width)
        encoder.append(first)
        for i in range(num_blocks):
            encoder.append(Step(f"block{i}", size, encoder[-1].out_channels, width, size in attention))
    skips = [step.out_channels for step in encoder]
    decoder: list[Step] = []
    last = skips[-1]
    for level, width in reversed(list(enumerate(widths))):
        size = resolution >> level
        if decoder:
            decoder.append(Step("up", size, last, last))
        else:
            decoder += [Step("in0", size, last, last, attention=True), Step("in1", size, last, last)]
        for i in range(num_blocks + 1):
            attends = size in attention and (decoder_attention is None or i in decoder_attention)
            decoder.append(Step(f"block{i}", size, last + skips.pop(), width, attends, takes_skip=True))
            last = width
    return encoder, decoder
