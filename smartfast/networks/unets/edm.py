"""EDM's networks (Karras et al., "Elucidating the design space", arXiv 2206.00364): SongUNet and DhariwalUNet."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.networks.unets.layers import (
    Block,
    Conv,
    GroupNorm,
    Images,
    Layer,
    Pointwise,
    Resampling,
    attend,
    embed_labels,
    resample,
    residual,
    sinusoids,
    start_at_zero,
)
from smartfast.networks.unets.options import DhariwalOptions, SongOptions
from smartfast.networks.unets.plan import Step, plan_unet

FOURIER_SCALE = 16
SONG_EPS, DHARIWAL_EPS = 1e-6, 1e-5


class SongUNet(nn.Module):
    """DDPM++ and NCSN++, with EDM's parameter names.

    Args:
        options: Of the network.
        out_channels: None = the images'.
    """

    def __init__(self, options: SongOptions, out_channels: int | None = None) -> None:
        super().__init__()
        self.options = options
        self.out_channels = out_channels or options.img_channels
        noise, embedding = (options.model_channels * n for n in (options.channel_mult_noise, options.channel_mult_emb))
        if options.embedding_type == "fourier":
            self.map_noise = FourierEmbedding(noise)
        if options.label_dim:
            self.map_label = nn.Linear(options.label_dim, noise)
        if options.augment_dim:
            self.map_augment = nn.Linear(options.augment_dim, noise, bias=False)
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        encoder, decoder = plan_unet(
            resolution=options.img_resolution,
            in_channels=options.img_channels,
            first_width=options.model_channels,
            widths=[mult * options.model_channels for mult in options.channel_mult],
            num_blocks=options.num_blocks,
            attention=options.attn_resolutions,
            decoder_attention=(options.num_blocks,),
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        images = options.img_channels
        for step in encoder:
            self.enc[step.name] = self._block(step, embedding)
            if step.role == "down":
                images = self._add_aux_encoder(step, images)
        for step, after in zip(decoder, [*decoder[1:], None], strict=True):
            self.dec[step.name] = self._block(step, embedding)
            ends_resolution = step.takes_skip and (after is None or not after.takes_skip)
            if ends_resolution and (options.decoder_type == "skip" or after is None):
                self._add_aux_decoder(step)
        self._start()

    def _block(self, step: Step, embedding: int) -> nn.Module:
        if step.role == "conv":
            return Conv(step.in_channels, step.out_channels, 3, images="in")
        return UNetBlock(
            step,
            embedding,
            heads=1 if step.attention else 0,
            scale_shift=False,
            gain=math.sqrt(0.5),
            eps=SONG_EPS,
            taps=self.options.resample_filter,
            project_resampled=True,
        )

    def _add_aux_encoder(self, step: Step, channels: int) -> int:
        """What brings the image, or what was made of it, into the encoder at half the resolution before.

        channels: Of that; returns those after it.
        """
        size, taps = f"{step.resolution}x{step.resolution}", self.options.resample_filter
        images: Images | None = "in" if step.resolution == self.options.img_resolution // 2 else None
        if self.options.encoder_type == "skip":
            self.enc[f"{size}_aux_down"] = Filter("down", taps)
            self.enc[f"{size}_aux_skip"] = Conv(channels, step.out_channels, 1, images="in")
        if self.options.encoder_type == "residual":
            self.enc[f"{size}_aux_residual"] = FilteredConv(channels, step.out_channels, taps, images=images)
            return step.out_channels
        return channels

    def _add_aux_decoder(self, step: Step) -> None:
        """What makes an image of the decoder's features."""
        size = f"{step.resolution}x{step.resolution}"
        if any("aux" in name for name in self.dec):
            self.dec[f"{size}_aux_up"] = Filter("up", self.options.resample_filter)
        self.dec[f"{size}_aux_norm"] = _norm(step.out_channels, SONG_EPS)
        self.dec[f"{size}_aux_conv"] = Conv(step.out_channels, self.out_channels, 3, images="out")

    def _start(self) -> None:
        """Weights as EDM's begin: Xavier's, smaller in attention and nearly zero where a block ends; no biases."""
        gains = {"qkv": math.sqrt(0.2), "conv1": 1e-5, "proj": 1e-5}
        for name, layer in self.named_modules():
            if isinstance(layer, Layer | nn.Linear):
                gain = 1e-5 if name.endswith("aux_conv") else gains.get(name.rpartition(".")[2], 1.0)
                nn.init.xavier_uniform_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """F(x, c_noise), [N, out_channels, H, W].

        Args:
            x: Scaled noised images [N, C, H, W].
            noise: c_noise [N].
            labels: Class indices [N] or label vectors [N, label_dim]; None = no class, a vector of zeros.
            augment_labels: [N, augment_dim]; None = not augmented.
        """
        embedding = self._embed(noise, labels, augment_labels)
        x, skips = self._encode(x, embedding)
        image: Any = None
        for name, block in self.dec.items():
            if name.endswith("aux_up"):
                image = block(image)
            elif name.endswith("aux_norm"):
                norm = block
            elif name.endswith("aux_conv"):
                new = block(norm(x, dtype=block.weight.dtype))
                image = new if image is None else image + new
            else:
                x = block(torch.cat([x, skips.pop()], dim=1) if block.takes_skip else x, embedding)
        return image

    def _embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        options, noise = self.options, noise.to(self.map_layer0.weight.dtype)
        if options.embedding_type == "fourier":
            waves = self.map_noise(noise)
        else:
            waves = sinusoids(noise, options.model_channels * options.channel_mult_noise, endpoint=True)
        embedding = torch.cat(waves.chunk(2, dim=1)[::-1], dim=1)  # sines first
        if options.label_dim:
            if labels is not None:
                embedding = embedding + embed_labels(labels, self.map_label.weight.t()) * math.sqrt(options.label_dim)
            embedding = embedding + self.map_label.bias
        if options.augment_dim and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def _encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's last output, and the outputs that the decoder takes."""
        skips: list[Tensor] = []
        image = x
        for name, block in self.enc.items():
            if name.endswith("aux_down"):
                image = block(image)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + block(image)
            elif name.endswith("aux_residual"):
                x = skips[-1] = image = (x + block(image)) * math.sqrt(0.5)
            else:
                x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
                skips.append(x)
        return x, skips


class DhariwalUNet(nn.Module):
    """ADM's network as EDM has it; see `SongUNet` for arguments and forward."""

    def __init__(self, options: DhariwalOptions, out_channels: int | None = None) -> None:
        super().__init__()
        self.options = options
        width, embedding = options.model_channels, options.model_channels * options.channel_mult_emb
        widths = [mult * width for mult in options.channel_mult]
        if options.augment_dim:
            self.map_augment = start_at_zero(nn.Linear(options.augment_dim, width, bias=False))
        self.map_layer0 = nn.Linear(width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if options.label_dim:
            self.map_label = nn.Linear(options.label_dim, embedding, bias=False)
            nn.init.normal_(self.map_label.weight)
        encoder, decoder = plan_unet(
            resolution=options.img_resolution,
            in_channels=options.img_channels,
            first_width=widths[0],
            widths=widths,
            num_blocks=options.num_blocks,
            attention=options.attn_resolutions,
        )
        self.enc = nn.ModuleDict({step.name: self._block(step, embedding) for step in encoder})
        self.dec = nn.ModuleDict({step.name: self._block(step, embedding) for step in decoder})
        self.out_norm = _norm(widths[0], DHARIWAL_EPS)
        self.out_conv = start_at_zero(Conv(widths[0], out_channels or options.img_channels, 3, images="out"))

    def _block(self, step: Step, embedding: int) -> nn.Module:
        if step.role == "conv":
            return Conv(step.in_channels, step.out_channels, 3, images="in")
        heads = step.out_channels // 64 if step.attention else 0
        return UNetBlock(step, embedding, heads=heads, scale_shift=True, gain=1.0, eps=DHARIWAL_EPS)

    def forward(
        self, x: Tensor, noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """See `SongUNet`."""
        embedding = sinusoids(noise.to(self.map_layer0.weight.dtype), self.options.model_channels)
        if self.options.augment_dim and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels)
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        if self.options.label_dim and labels is not None:
            embedding = embedding + embed_labels(labels, self.map_label.weight.t())
        embedding = F.silu(embedding)
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        for block in self.dec.values():
            x = block(torch.cat([x, skips.pop()], dim=1) if block.takes_skip else x, embedding)
        return self.out_conv(self.out_norm(x, dtype=self.out_conv.weight.dtype))


class UNetBlock(Block):
    """A residual block and, behind it, attention.

    Args:
        step: Which channels, resampling and whether attention.
        embedding: Size of the embedding.
        heads: Of attention; 0 = none.
        scale_shift: See `residual`.
        gain: Factor of both sums.
        eps: Of the normalisations.
        taps: Of the resampling.
        project_resampled: Whether a block that resamples also has a 1x1 convolution past it.
    """

    def __init__(
        self,
        step: Step,
        embedding: int,
        *,
        heads: int,
        scale_shift: bool,
        gain: float,
        eps: float,
        taps: Sequence[int] = (1, 1),
        project_resampled: bool = False,
    ) -> None:
        super().__init__()
        self.resampling, self.takes_skip = step.resampling, step.takes_skip
        self.gain, self.heads, width = gain, heads, step.out_channels
        self.norm0 = _norm(step.in_channels, eps)
        self.conv0 = Conv(step.in_channels, width, 3)
        self.affine = nn.Linear(embedding, 2 * width if scale_shift else width)
        self.norm1 = _norm(width, eps)
        self.conv1 = start_at_zero(Conv(width, width, 3))
        is_projected = step.in_channels != width or (step.resampling and project_resampled)
        self.skip: nn.Module | None = Conv(step.in_channels, width, 1) if is_projected else None
        if step.resampling:
            # The file has the taps twice, also where nothing is projected.
            self.skip = self.skip or nn.Identity()
            for module in (self.conv0, self.skip):
                module.register_buffer("resample_filter", square_taps(taps))
        if heads:
            self.norm2 = _norm(width, eps, act=False)
            self.qkv = Pointwise(width, 3 * width, dims=2, heads=heads, order="head, channel, qkv")
            self.proj = start_at_zero(Pointwise(width, width, dims=2))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [N, C, H, W] and the activated embedding [N, E] -> [N, C', H', W']."""
        taps = self.conv0.resample_filter if self.resampling else None
        assert taps is None or isinstance(taps, Tensor)
        x = residual(
            x,
            self.affine(embedding),
            norms=(self.norm0, self.norm1),
            convs=(self.conv0, self.conv1),
            skip=self.skip,
            resampling=self.resampling,
            taps=taps,
            dropout=self.dropout if self.training else 0.0,
        )
        x = x * self.gain
        if self.heads:
            x = (x + attend(self.norm2(x), qkv=self.qkv, proj=self.proj, heads=self.heads)) * self.gain
        return x


class FourierEmbedding(nn.Module):
    """cos, then sin, of random frequencies times t, [N] -> [N, dim]."""

    freqs: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * FOURIER_SCALE)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * (2 * math.pi * self.freqs.to(t.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Filter(nn.Module):
    """Resampling of images or features, no weights."""

    resample_filter: Tensor

    def __init__(self, resampling: Resampling, taps: Sequence[int]) -> None:
        super().__init__()
        self.resampling: Resampling = resampling
        self.register_buffer("resample_filter", square_taps(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resampling, self.resample_filter)


class FilteredConv(Layer):
    """A 3x3 convolution at full resolution whose output is filtered and halved: one wider convolution of stride 2."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[int], *, images: Images | None) -> None:
        super().__init__((out_channels, in_channels, 3, 3))
        self.register_buffer("resample_filter", square_taps(taps))
        self.images = images
        self.out_dtype: torch.dtype | None = None

    def final(self, term: Tensor) -> Tensor:
        if term.ndim == 1:
            return term
        taps = self.resample_filter.to(term.dtype)
        full = F.conv2d(term.flatten(0, 1)[:, None], taps, padding=taps.shape[-1] - 1)
        return full[:, 0].unflatten(0, term.shape[:2])

    def prepare(self, dtype: torch.dtype) -> None:
        super().prepare(torch.promote_types(dtype, torch.float32) if self.images else dtype)
        self.out_dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.terms()
        padding = 1 + (self.resample_filter.shape[-1] - 1) // 2
        y = F.conv2d(x.to(weight.dtype), weight, bias, stride=2, padding=padding)
        return y.to(self.out_dtype or y.dtype)


def square_taps(taps: Sequence[int]) -> Tensor:
    """float32 [1, 1, k, k] of sum 1."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def _norm(channels: int, eps: float, *, act: bool = True) -> GroupNorm:
    return GroupNorm(channels, groups=min(32, channels // 4), eps=eps, act=act)
