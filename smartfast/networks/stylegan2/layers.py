"""Building blocks that StyleGAN2's generator and discriminator share.

Learned tensors are stored at unit scale and multiplied by a runtime gain (equalized learning rate,
Karras et al., "Progressive growing of GANs", arXiv 1710.10196). Parameter and buffer names are those
of stylegan2-ada-pytorch, so its state dicts load as they are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smartfast.kernels import bias_act, conv2d_resample, limit_styles, modulated_conv2d, setup_filter

DEFAULT_FILTER = (1, 3, 3, 1)
ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2), "relu": math.sqrt(2), "swish": math.sqrt(2)}


def activation_gain(act: str) -> float:
    """Gain that keeps the second moment of an activation's output near that of its input."""
    return ACTIVATION_GAIN.get(act, 1.0)


def feature_maps(resolution: int, channel_base: int, channel_max: int) -> int:
    """Feature maps of a layer at `resolution` pixels (StyleGAN2, section B)."""
    return min(channel_base // resolution, channel_max)


def block_resolutions(resolution: int) -> list[int]:
    """Resolutions of the blocks from 4 pixels up.

    Raises:
        ValueError: `resolution` is not a power of two of at least 4.
    """
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution is {resolution}, expected a power of two of at least 4")
    return [2**level for level in range(2, resolution.bit_length())]


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each row of [N, F] to a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalized learning rate, [N, in_features] -> [N, out_features]."""

    def __init__(
        self, in_features: int, out_features: int, *, act: str = "linear", lr_multiplier: float = 1.0, bias_init=0.0
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init) / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = (self.bias * self.bias_gain).to(x.dtype)
        if self.act == "linear":
            return torch.addmm(bias, x, weight.t())
        return bias_act(x @ weight.t(), bias, act=self.act)


class Mapping(nn.Module):
    """z and labels to w (StyleGAN2's mapping network); the discriminator maps its labels with one too.

    Args:
        z_dim: Dimension of z; 0 when only labels enter.
        c_dim: Dimension of the label vectors; 0 for none.
        w_dim: Dimension of w.
        num_ws: Copies of w to return, [N, num_ws, w_dim]; None returns [N, w_dim].
        num_layers: Depth.
        embed_features, layer_features: Widths of the label embedding and of the hidden layers; None = w_dim.
        lr_multiplier: Learning-rate multiplier of the layers, not of the embedding.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        act: str = "lrelu",
        lr_multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_layers = z_dim, c_dim, num_layers
        self.num_ws = num_ws or 0
        embed_features = (embed_features or w_dim) if c_dim else 0
        if c_dim:
            self.embed = FullyConnected(c_dim, embed_features)
        for i in range(num_layers):
            fan_in = (layer_features or w_dim) if i else z_dim + embed_features
            fan_out = (layer_features or w_dim) if i < num_layers - 1 else w_dim
            setattr(self, f"fc{i}", FullyConnected(fan_in, fan_out, act=act, lr_multiplier=lr_multiplier))
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def map(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """w [N, w_dim] of z [N, z_dim] and label vectors c [N, c_dim], before truncation and broadcasting."""
        inputs = []
        if self.z_dim:
            assert z is not None, "a mapping with z_dim needs z"
            inputs.append(normalize_second_moment(z))
        if self.c_dim:
            inputs.append(normalize_second_moment(self.embed(c)))
        x = torch.cat(inputs, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x

    def broadcast(self, w: Tensor) -> Tensor:
        """One copy of w [N, w_dim] per layer, [N, num_ws, w_dim]."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Latents for the layers.

        Args:
            z: [N, z_dim].
            c: Label vectors [N, c_dim], or None when c_dim is 0.
            truncation_psi: 1 leaves w as it is, 0 gives the mean w (StyleGAN's truncation trick).
            truncation_cutoff: Number of leading layers that are truncated; None = all.

        Returns:
            [N, num_ws, w_dim], or [N, w_dim] when num_ws is None.
        """
        w = self.map(z, c)
        if not self.num_ws:
            return w
        ws = self.broadcast(w)
        if truncation_psi == 1:
            return ws
        truncated = self.w_avg.lerp(ws, truncation_psi)
        if truncation_cutoff is None:
            return truncated
        return torch.cat([truncated[:, :truncation_cutoff], ws[:, truncation_cutoff:]], dim=1)


class ConvLayer(nn.Module):
    """Convolution with optional up- or downsampling, bias and activation, [N, C, H, W] -> [N, C', H', W']."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        act: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up, self.down, self.act, self.conv_clamp = up, down, act, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        is_linear = self.act == "linear" and self.bias is None and self.conv_clamp is None
        weight_gain = self.weight_gain * gain if is_linear else self.weight_gain
        x = conv2d_resample(
            x,
            (self.weight * weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        if is_linear:
            return x
        bias = None if self.bias is None else self.bias.to(x.dtype)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, bias, act=self.act, gain=activation_gain(self.act) * gain, clamp=clamp)


class StyledConv(nn.Module):
    """Modulated convolution with noise, bias and activation: one layer of the synthesis network."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        use_noise: bool = True,
        act: str = "lrelu",
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up, self.act, self.conv_clamp, self.use_noise = up, act, conv_clamp, use_noise
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def styles(self, w: Tensor, dtype: torch.dtype) -> Tensor:
        """Factors of the input's channels [N, C], for images in `dtype`: in float16 at most 1, which loses nothing."""
        styles = self.affine(w)
        return limit_styles(styles) if dtype == torch.float16 else styles

    def forward(
        self,
        x: Tensor,
        styles: Tensor,
        noise: Tensor | None,
        gain: float = 1.0,
        *,
        input_is_scaled: bool = False,
        next_styles: Tensor | None = None,
    ) -> Tensor:
        """[N, C', H', W'].

        Args:
            x: [N, C, H, W].
            styles: Those of `self.styles`.
            noise: Unit normal [N, 1, H', W'] or [H', W'], or None.
            gain: Factor of the result, on top of the activation's.
            input_is_scaled, next_styles: See `modulated_conv2d`.
        """
        scaled_noise = None if noise is None else (noise * self.noise_strength).to(x.dtype)
        return modulated_conv2d(
            x,
            self.weight,
            styles,
            noise=scaled_noise,
            bias=self.bias.to(x.dtype),
            up=self.up,
            padding=1,
            f=self.resample_filter,
            flip_weight=self.up == 1,
            act=self.act,
            gain=activation_gain(self.act) * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
            input_is_scaled=input_is_scaled,
            next_styles=next_styles,
        )


class ToRGB(nn.Module):
    """1x1 modulated convolution without demodulation to image channels."""

    def __init__(self, in_channels: int, channels: int, w_dim: int, *, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        return modulated_conv2d(
            x, self.weight, styles, bias=self.bias.to(x.dtype), demodulate=False, clamp=self.conv_clamp
        )
