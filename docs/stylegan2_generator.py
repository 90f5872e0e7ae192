"""StyleGAN2's generator in plain PyTorch, to be copied: needs torch, and safetensors to read the weights.

    generator = load("runs/photos/checkpoints/000100.000/generator_ema.safetensors")
    images = generator(torch.randn(4, generator.z_dim))          # float32 [4, channels, height, width], about -1 to 1

It computes in float32 what a run's averaged generator computes, to rounding; docs/weights_elsewhere.md has more.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FullyConnected(nn.Module):
    """Weights are stored at unit scale; `lr` is the learning-rate multiplier that they were trained with."""

    def __init__(self, fan_in: int, fan_out: int, *, lr: float = 1.0, act: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in))
        self.bias = nn.Parameter(torch.empty(fan_out))
        self.weight_gain, self.bias_gain, self.act = lr / fan_in**0.5, lr, act

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(x, 0.2) * 2**0.5 if self.act else x


def normalize(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Latents z and label vectors c to w."""

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, layers: int, lr: float) -> None:
        super().__init__()
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        for i in range(layers):
            fan_in = w_dim if i else z_dim + (w_dim if c_dim else 0)
            setattr(self, f"fc{i}", FullyConnected(fan_in, w_dim, lr=lr, act=True))
        self.layers, self.c_dim = layers, c_dim
        self.register_buffer("w_avg", torch.empty(w_dim))

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float) -> Tensor:
        x = normalize(z)
        if self.c_dim:
            x = torch.cat([x, normalize(self.embed(c))], dim=1)
        for i in range(self.layers):
            x = getattr(self, f"fc{i}")(x)
        return self.w_avg.lerp(x, truncation_psi)


def upsample(x: Tensor, f: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the filter f [4, 4] of sum 1."""
    return F.conv_transpose2d(x, (f * 4).expand(x.shape[1], 1, -1, -1), stride=2, padding=1, groups=x.shape[1])


class StyledConv(nn.Module):
    """A 3x3 convolution whose input channels w scales, with per-pixel noise, bias and activation."""

    def __init__(self, fan_in: int, fan_out: int, w_dim: int, size: int, *, up: bool, noise: bool, clamp: float | None):
        super().__init__()
        self.affine = FullyConnected(w_dim, fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.empty(fan_out))
        self.register_buffer("resample_filter", torch.empty(4, 4))
        if noise:
            self.register_buffer("noise_const", torch.empty(size, size))
            self.noise_strength = nn.Parameter(torch.empty([]))
        self.up, self.noise, self.clamp = up, noise, clamp

    def forward(self, x: Tensor, w: Tensor, gain: float = 1.0) -> Tensor:
        styles = self.affine(w)
        demodulation = (styles.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()
        x = x * styles[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            f = (self.resample_filter * 4).flip([0, 1]).expand(x.shape[1], 1, -1, -1)
            x = F.conv2d(x, f, padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * demodulation[:, :, None, None]
        if self.noise:
            x = x + self.noise_const * self.noise_strength
        x = F.leaky_relu(x + self.bias[:, None, None], 0.2) * (2**0.5 * gain)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


class ToRGB(nn.Module):
    """Features to image channels."""

    def __init__(self, fan_in: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, fan_in)
        self.weight = nn.Parameter(torch.empty(channels, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / x.shape[1] ** 0.5
        x = F.conv2d(x * styles[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Skip(nn.Module):
    """The way past a block of the architecture `resnet`."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, 1, 1))
        self.register_buffer("resample_filter", torch.empty(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(F.conv2d(x, self.weight / x.shape[1] ** 0.5), self.resample_filter) * 0.5**0.5


class Block(nn.Module):
    """The layers of one resolution; `fan_in` 0: the first block, which begins with a constant."""

    def __init__(self, fan_in: int, fan_out: int, w_dim: int, size: int, channels: int, o: dict) -> None:
        super().__init__()
        layer = dict(noise=o["use_noise"], clamp=o["conv_clamp"])
        self.register_buffer("resample_filter", torch.empty(4, 4))
        self.first, self.resnet = not fan_in, o["architecture"] == "resnet"
        if self.first:
            self.const = nn.Parameter(torch.empty(fan_out, size, size))
        else:
            self.conv0 = StyledConv(fan_in, fan_out, w_dim, size, up=True, **layer)
            if self.resnet:
                self.skip = Skip(fan_in, fan_out)
        self.conv1 = StyledConv(fan_out, fan_out, w_dim, size, up=False, **layer)
        self.has_rgb = o["architecture"] == "skip" or size == o["resolution"]
        if self.has_rgb:
            self.torgb = ToRGB(fan_out, channels, w_dim, o["conv_clamp"])

    def forward(self, x: Tensor | None, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.first:
            x = self.conv1(self.const.expand(len(w), -1, -1, -1), w)
        elif self.resnet:
            x = self.skip(x) + self.conv1(self.conv0(x, w), w, gain=0.5**0.5)
        else:
            x = self.conv1(self.conv0(x, w), w)
        image = None if image is None else upsample(image, self.resample_filter)
        if self.has_rgb:
            rgb = self.torgb(x, w)
            image = rgb if image is None else image + rgb
        return x, image


class Generator(nn.Module):
    """`options`: what generator_ema.json says."""

    def __init__(self, options: dict) -> None:
        super().__init__()
        o = options
        if other := [name for name in ("act", "mapping_act") if o.get(name, "lrelu") != "lrelu"]:
            raise ValueError(f"{other[0]} is {o[other[0]]}, expected lrelu, the only activation here")
        self.z_dim, self.c_dim, self.resolution = o["z_dim"], o["c_dim"], o["resolution"]
        self.mapping = Mapping(o["z_dim"], o["c_dim"], o["w_dim"], o["mapping_layers"], o["mapping_lr_multiplier"])
        self.synthesis = nn.Module()
        width, size = 0, 4
        while size <= self.resolution:
            maps = min(o["channel_base"] // size, o["channel_max"])
            setattr(self.synthesis, f"b{size}", Block(width, maps, o["w_dim"], size, o["channels"], o))
            width, size = maps, 2 * size

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Images of z [N, z_dim] and one-hot labels c [N, c_dim]; truncation_psi 0.7 trades variety for quality."""
        w = self.mapping(z, c, truncation_psi)
        x = image = None
        for block in self.synthesis.children():
            x, image = block(x, image, w)
        return image


def load(path: str | Path) -> Generator:
    """The generator of a generator_ema.safetensors, whose .json lies beside it."""
    from safetensors.torch import load_file

    generator = Generator(json.loads(Path(path).with_suffix(".json").read_text()))
    generator.load_state_dict(load_file(path))
    return generator.eval().requires_grad_(False)
