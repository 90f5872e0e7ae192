"""ADM's UNet (Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.networks.unets.layers import (
    Block,
    Conv,
    GroupNorm,
    Pointwise,
    Resampling,
    RowOrder,
    attend,
    embed_labels,
    resample,
    residual,
    sinusoids,
    start_at_zero,
)
from smartfast.networks.unets.options import ADMOptions
from smartfast.networks.unets.plan import Step, plan_unet

GROUPS, EPS = 32, 1e-5


class ADM(nn.Module):
    """ADM's UNet, with the parameter names of guided-diffusion."""

    def __init__(self, options: ADMOptions) -> None:
        super().__init__()
        self.options = options
        widths = [round(mult * options.model_channels) for mult in options.channel_mult]
        embedding = 4 * options.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(options.model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if options.num_classes is not None:
            self.label_emb = nn.Embedding(options.num_classes, embedding)
        encoder, decoder = plan_unet(
            resolution=options.image_size,
            in_channels=options.in_channels,
            first_width=widths[0],
            widths=widths,
            num_blocks=options.num_res_blocks,
            attention=options.attention_resolutions,
        )
        self.input_blocks = nn.ModuleList(self._layers(step) for step in encoder)
        self.middle_block = self._layers(decoder[0]).extend(self._layers(decoder[1]))
        blocks: list[nn.ModuleList] = []
        for step in decoder[2:]:
            if step.takes_skip:
                blocks.append(self._layers(step))
            else:
                blocks[-1].extend(self._layers(step))
        self.output_blocks = nn.ModuleList(blocks)
        out_conv = start_at_zero(Conv(widths[0], options.out_channels, 3, images="out"))
        self.out = nn.ModuleDict({"0": _norm(widths[0]), "2": out_conv})

    @property
    def has_heads(self) -> bool:
        """Whether some attention has more than one, so that the order of its weights says something."""
        return any(isinstance(module, Attention) and module.heads > 1 for module in self.modules())

    def _layers(self, step: Step) -> nn.ModuleList:
        options = self.options
        if step.role == "conv":
            return nn.ModuleList([Conv(step.in_channels, step.out_channels, 3, images="in")])
        if step.resampling and not options.resblock_updown:
            return nn.ModuleList([Downsample(step) if step.resampling == "down" else Upsample(step)])
        embedding = 4 * options.model_channels
        block = ResidualBlock(step, embedding, scale_shift=options.use_scale_shift_norm)
        layers = nn.ModuleList([block])
        if step.attention:
            layers.append(Attention(step.out_channels, options))
        return layers

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Epsilon, and with a learned variance three more channels, [N, out_channels, H, W].

        Args:
            x: Noised images [N, in_channels, H, W].
            t: Timesteps [N], of any dtype, 0..999 for the published networks.
            labels: Class indices [N] or label vectors [N, num_classes], of a conditional network.
        """
        t = t.to(self.time_embed.get_parameter("0.weight").dtype)
        embedding = self.time_embed(sinusoids(t, self.options.model_channels))
        if self.options.num_classes is not None:
            if labels is None:
                raise ValueError(f"labels is None, expected classes below {self.options.num_classes}")
            embedding = embedding + embed_labels(labels, self.label_emb.weight)
        embedding = F.silu(embedding)
        skips = []
        for block in self.input_blocks:
            x = _run(block, x, embedding)
            skips.append(x)
        x = _run(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = _run(block, torch.cat([x, skips.pop()], dim=1), embedding)
        out_conv = self.out["2"]
        return out_conv(self.out["0"](x, dtype=out_conv.weight.dtype))


class ResidualBlock(Block):
    """Two convolutions with the embedding between them, and the input past them."""

    def __init__(self, step: Step, embedding: int, *, scale_shift: bool) -> None:
        super().__init__()
        self.resampling: Resampling | None = step.resampling
        width = step.out_channels
        conv = start_at_zero(Conv(width, width, 3))
        self.in_layers = nn.ModuleDict({"0": _norm(step.in_channels), "2": Conv(step.in_channels, width, 3)})
        self.emb_layers = nn.ModuleDict({"1": nn.Linear(embedding, 2 * width if scale_shift else width)})
        self.out_layers = nn.ModuleDict({"0": _norm(width), "3": conv})
        self.skip_connection = None if step.in_channels == width else Conv(step.in_channels, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [N, C, H, W] and the activated embedding [N, E] -> [N, C', H', W']."""
        return residual(
            x,
            self.emb_layers["1"](embedding),
            norms=(self.in_layers["0"], self.out_layers["0"]),
            convs=(self.in_layers["2"], self.out_layers["3"]),
            skip=self.skip_connection,
            resampling=self.resampling,
            dropout=self.dropout if self.training else 0.0,
        )


class Attention(nn.Module):
    """x plus attention over its pixels."""

    def __init__(self, channels: int, options: ADMOptions) -> None:
        super().__init__()
        per_head, dims = options.num_head_channels, options.attention_dims
        self.heads = channels // per_head if per_head else options.num_heads
        if not self.heads or channels % (per_head or self.heads):
            found = f"heads of {per_head}" if per_head else f"{self.heads} heads"
            raise ValueError(f"{found} in attention over {channels} channels, expected what divides them")
        self.norm = GroupNorm(channels, groups=GROUPS, eps=EPS, act=False)
        self.qkv = Pointwise(
            channels,
            3 * channels,
            dims=dims,
            heads=self.heads,
            order=row_order(is_new=options.use_new_attention_order),
        )
        self.proj_out = start_at_zero(Pointwise(channels, channels, dims=dims))

    def forward(self, x: Tensor) -> Tensor:
        return x + attend(self.norm(x), qkv=self.qkv, proj=self.proj_out, heads=self.heads)


def row_order(*, is_new: bool) -> RowOrder:
    """Of q, k and v in the weights of either attention order."""
    return "qkv, head, channel" if is_new else "head, qkv, channel"


def reorder_attention(network: ADM, *, is_new: bool) -> None:
    """Read the weights of a network, prepared or not, in one of the two attention orders, whichever it was before."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.qkv.reorder(row_order(is_new=is_new))


class Downsample(nn.Module):
    """A convolution that keeps every second pixel."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.op = Conv(step.in_channels, step.out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Every pixel twice, then a convolution."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = Conv(step.in_channels, step.out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(resample(x, "up"))


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(channels, groups=GROUPS, eps=EPS)


def _run(layers: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
    return x
