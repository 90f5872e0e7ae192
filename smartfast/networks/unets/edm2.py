"""EDM2's magnitude-preserving UNet of pixels (Karras et al., arXiv 2312.02696), with its preconditioning."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.networks.unets.denoiser import edm_coefficients
from smartfast.networks.unets.layers import Conv, Layer, Pointwise, at_least_float32, attend, embed_labels, resample
from smartfast.networks.unets.options import EDM2Options
from smartfast.networks.unets.plan import Step, plan_unet

NORM_EPS = 1e-4


class EDM2(nn.Module):
    """The denoiser D(x; sigma), with EDM2's parameter names.

    The weights are normalised as they are used, as in the original's evaluation; `prepare` does it once, in float32.
    """

    def __init__(self, options: EDM2Options) -> None:
        super().__init__()
        self.options = options
        self.unet = UNet(options)
        self.logvar_fourier = FourierFeatures(options.logvar_channels)
        self.logvar_linear = MPLinear(options.logvar_channels, 1)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoised image, at least float32 [N, C, H, W].

        Args:
            x: Noised images x + sigma n [N, C, H, W].
            sigma: Noise levels [N].
            labels: Class indices [N] or label vectors [N, label_dim]; None = no class.
        """
        x = at_least_float32(x)
        c_skip, c_out, c_in, c_noise = edm_coefficients(sigma.to(x.dtype), self.options.sigma_data)
        output = self.unet(_per_image(c_in) * x, c_noise, labels).to(x.dtype)
        return _per_image(c_skip) * x + _per_image(c_out) * output

    def logvar(self, sigma: Tensor) -> Tensor:
        """The learned uncertainty u(sigma) of training's loss, [N] -> [N, 1, 1, 1]."""
        return _per_image(self.logvar_linear(self.logvar_fourier(sigma.log() / 4))[:, 0])


class UNet(nn.Module):
    """F(x, c_noise) of `EDM2`."""

    def __init__(self, options: EDM2Options) -> None:
        super().__init__()
        self.options = options
        width, mults = options.model_channels, options.channel_mult
        noise = width * (options.channel_mult_noise or mults[0])
        embedding = width * (options.channel_mult_emb or max(mults))
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = FourierFeatures(noise)
        self.emb_noise = MPLinear(noise, embedding)
        if options.label_dim:
            self.emb_label = MPLinear(options.label_dim, embedding)
        encoder, decoder = plan_unet(
            resolution=options.img_resolution,
            in_channels=options.img_channels + 1,
            first_width=width * mults[0],
            widths=[width * mult for mult in mults],
            num_blocks=options.num_blocks,
            attention=options.attn_resolutions,
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        for step in encoder:
            if step.role == "conv":
                self.enc[step.name] = MPConv(step.in_channels, step.out_channels, 3, bias=False, images="in")
            else:
                self.enc[step.name] = Block(step, embedding, options, is_encoder=True)
        for step in decoder:
            self.dec[step.name] = Block(step, embedding, options, is_encoder=False)
        self.out_conv = MPConv(width * mults[0], options.img_channels, 3, bias=False, images="out")
        for module in self.modules():
            if isinstance(module, Normalised):
                nn.init.normal_(module.weight)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """F(x, c_noise) [N, C, H, W] of scaled images x [N, C, H, W] and c_noise [N]."""
        embedding = self._embed(noise, labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for block in self.dec.values():
            x = block(mp_cat(x, skips.pop(), self.options.concat_balance) if block.takes_skip else x, embedding)
        return self.out_conv(x) * self.out_gain

    def _embed(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        embedding = self.emb_noise(self.emb_fourier(noise))
        if self.options.label_dim:
            if labels is None:
                of_class = torch.zeros_like(embedding)
            else:
                of_class = embed_labels(labels, self.emb_label.terms()[0].t()) * math.sqrt(self.options.label_dim)
            embedding = mp_sum(embedding, of_class, self.options.label_balance)
        return mp_silu(embedding)


class Block(nn.Module):
    """A residual block and attention, whose outputs keep the magnitude of their inputs."""

    def __init__(self, step: Step, embedding: int, options: EDM2Options, *, is_encoder: bool) -> None:
        super().__init__()
        self.options, self.is_encoder = options, is_encoder
        self.resampling, self.takes_skip = step.resampling, step.takes_skip
        width = step.out_channels
        self.heads = width // options.channels_per_head if step.attention else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(width if is_encoder else step.in_channels, width, 3, bias=False)
        self.emb_linear = MPLinear(embedding, width)
        self.conv_res1 = MPConv(width, width, 3, bias=False)
        self.conv_skip = MPConv(step.in_channels, width, 1, bias=False) if step.in_channels != width else None
        if self.heads:
            self.attn_qkv = MPPointwise(
                width, 3 * width, dims=2, bias=False, heads=self.heads, order="head, channel, qkv"
            )
            self.attn_proj = MPPointwise(width, width, dims=2, bias=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [N, C, H, W] and the activated embedding [N, E] -> [N, C', H', W']."""
        x = resample(x, self.resampling)
        if self.is_encoder:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        y = self.conv_res0(mp_silu(x))
        factor = self.emb_linear(embedding) * self.emb_gain + 1
        y = self.conv_res1(mp_silu(y * _over_pixels(factor.to(y.dtype))))
        if not self.is_encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.options.res_balance)
        if self.heads:
            normalize_each = partial(normalize, dim=4)
            y = attend(x, qkv=self.attn_qkv, proj=self.attn_proj, heads=self.heads, normalize=normalize_each)
            x = mp_sum(x, y, self.options.attn_balance)
        limit = self.options.clip_act
        return x if limit is None else x.clamp(-limit, limit)


class Normalised(Layer):
    """What makes a layer without bias keep magnitudes: its weight is normalised over what each output reads."""

    def final(self, term: Tensor) -> Tensor:
        return super().final(normalize(term, dim=tuple(range(1, term.ndim))) / math.sqrt(term[0].numel()))


class MPConv(Normalised, Conv):
    """See `Conv`."""


class MPPointwise(Normalised, Pointwise):
    """See `Pointwise`."""


class MPLinear(Normalised):
    """A linear layer of embeddings, which stays in float32, [N, C] -> [N, C']."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__((out_channels, in_channels), bias=False)

    def prepare(self, dtype: torch.dtype) -> None:
        super().prepare(torch.promote_types(dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.terms()[0])


class FourierFeatures(nn.Module):
    """sqrt(2) cos(t freqs + phases), [N] -> [N, dim]."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(dim))
        self.register_buffer("phases", 2 * math.pi * torch.rand(dim))

    def forward(self, t: Tensor) -> Tensor:
        return (t.to(self.freqs.dtype)[:, None] * self.freqs + self.phases).cos() * math.sqrt(2)


def normalize(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x over its root mean square along `dim`, which is computed in float32."""
    rms = at_least_float32(x).square().mean(dim, keepdim=True).sqrt()
    return (x / (NORM_EPS + rms)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU at the magnitude of its input."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b at the magnitude of a and b."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a and b, at shares 1 - t and t of the magnitude whatever their numbers."""
    channels = a.shape[1], b.shape[1]
    scale = math.sqrt(sum(channels)) / math.hypot(1 - t, t)
    factors = (scale / math.sqrt(n) * share for n, share in zip(channels, (1 - t, t), strict=True))
    return torch.cat([part * factor for part, factor in zip((a, b), factors, strict=True)], dim=1)


def _over_pixels(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
