"""The calls of the ops in one training step of the StyleGAN2 configurations, on meta tensors.

Layers, dtypes and arguments are those of smartfast.networks.stylegan2; tests/bench holds the two against each other.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smartfast import kernels
from smartfast.networks.stylegan2.layers import DEFAULT_FILTER, activation_gain, block_resolutions, feature_maps

CLAMP = 256.0
GAIN = activation_gain("lrelu")
HALF_RESOLUTIONS = 4
IMAGE_CHANNELS = 3
LABELS_WIDTH = 512
FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        kernels.bias_act,
        kernels.conv2d_resample,
        kernels.denoise_distance,
        kernels.denoise_distance_and_gradient,
        kernels.modulated_conv2d,
        kernels.noise_forward,
        kernels.upfirdn2d,
        kernels.upsample2d,
    )
}


@dataclass(frozen=True)
class Config:
    """What the layers' shapes follow from; batch is a common one per GPU, bytes grow with it in proportion."""

    resolution: int
    channel_base: int
    batch: int
    architecture_d: str = "resnet"
    channel_max: int = 512
    image_channels: int = IMAGE_CHANNELS

    @property
    def resolutions(self) -> list[int]:
        return block_resolutions(self.resolution)

    def channels(self, resolution: int) -> int:
        return feature_maps(resolution, self.channel_base, self.channel_max)

    def is_half(self, resolution: int) -> bool:
        """Whether half precision is for this block: ADA's four highest resolutions, never below 8 pixels."""
        return resolution >= 8 and resolution in self.resolutions[-HALF_RESOLUTIONS:]


# cifar, imagenet64 and lsun_bedroom256 of configs/presets/, ADA's `auto` at 128 and `stylegan2` at 1024 pixels.
CONFIGS = (
    Config(32, 32768, batch=64, architecture_d="orig"),
    Config(64, 32768, batch=32),
    Config(128, 16384, batch=32),
    Config(256, 16384, batch=16),
    Config(1024, 32768, batch=4),
)


@dataclass(frozen=True, eq=False)
class Case:
    """One call of a public function of `smartfast.kernels`; arguments that require grad are differentiated."""

    op: str
    config: int
    layer: str
    arguments: dict[str, Any] = field(repr=False)

    @property
    def x(self) -> Tensor:
        """The images that the op works on."""
        return next(value for value in self.arguments.values() if isinstance(value, Tensor))

    @property
    def leaves(self) -> list[Tensor]:
        return [value for value in self.arguments.values() if isinstance(value, Tensor) and value.requires_grad]

    def run(self, implementation: str) -> Tensor:
        """The result; the first one where there are several."""
        result = FUNCTIONS[self.op](**self.arguments, impl=implementation)
        return result if isinstance(result, Tensor) else result[0]

    def __str__(self) -> str:
        return f"{self.config} {self.layer}"


def cases(config: Config, dtype: torch.dtype, channels_last: bool) -> Iterator[Case]:
    """Calls whose images have `dtype`, stored as NHWC or NCHW; RGB images are always NCHW."""
    make = _Maker(config, dtype, channels_last)
    for resolution in config.resolutions:
        if dtype == torch.float32 or config.is_half(resolution):
            yield from make.synthesis_block(resolution)
            yield from make.discriminator_block(resolution)
    if dtype == torch.float32:
        yield from make.rest()
    yield from make.score()


class _Maker:
    """Makes the cases of one configuration, dtype and memory layout."""

    def __init__(self, config: Config, dtype: torch.dtype, channels_last: bool) -> None:
        self.config, self.dtype = config, dtype
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.f = kernels.setup_filter(DEFAULT_FILTER).to("meta")

    def tensor(self, *shape: int, dtype: torch.dtype | None = None, is_leaf: bool = True) -> Tensor:
        layout = self.layout if len(shape) == 4 and shape[1] != self.config.image_channels else torch.contiguous_format
        x = torch.empty(shape, dtype=dtype or self.dtype, device="meta", memory_format=layout)
        return x.requires_grad_(is_leaf and x.is_floating_point())

    def images(self, channels: int, resolution: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensor(self.config.batch, channels, resolution, resolution, dtype=dtype)

    def case(self, op: str, layer: str, **arguments: Any) -> Case:
        return Case(op, self.config.resolution, layer, arguments)

    def synthesis_block(self, resolution: int) -> Iterator[Case]:
        c, name = self.config.channels(resolution), f"G b{resolution}"
        if resolution > 4:
            c_in = self.config.channels(resolution // 2)
            next_styles = self.tensor(self.config.batch, c, dtype=torch.float32)
            yield self.styled(f"{name}.conv0", c_in, c, resolution, up=2, next_styles=next_styles)
            z = self.images(c, resolution + 1)  # what the transposed convolution leaves
            yield self.case("upfirdn2d", f"{name}.conv0 filter", x=z, f=self.f, padding=1, gain=4.0)
            if self.dtype == torch.float32:
                img = self.images(self.config.image_channels, resolution // 2)
                yield self.case("upsample2d", f"{name} RGB", x=img, f=self.f)
        yield self.styled(f"{name}.conv1", c, c, resolution, input_is_scaled=resolution > 4)
        yield self.case(
            "modulated_conv2d",
            f"{name}.torgb",
            x=self.images(c, resolution),
            weight=self.tensor(self.config.image_channels, c, 1, 1, dtype=torch.float32),
            styles=self.tensor(self.config.batch, c, dtype=torch.float32),
            bias=self.tensor(self.config.image_channels),
            demodulate=False,
            clamp=CLAMP,
        )

    def styled(self, layer: str, c_in: int, c_out: int, resolution: int, up: int = 1, **options: Any) -> Case:
        return self.case(
            "modulated_conv2d",
            layer,
            x=self.images(c_in, resolution // up),
            weight=self.tensor(c_out, c_in, 3, 3, dtype=torch.float32),
            styles=self.tensor(self.config.batch, c_in, dtype=torch.float32),
            noise=self.images(1, resolution),
            bias=self.tensor(c_out),
            up=up,
            padding=1,
            f=self.f,
            flip_weight=up == 1,
            act="lrelu",
            gain=GAIN,
            clamp=CLAMP,
            **options,
        )

    def discriminator_block(self, resolution: int) -> Iterator[Case]:
        if resolution == 4:
            return
        c, c_out, name = self.config.channels(resolution), self.config.channels(resolution // 2), f"D b{resolution}"
        is_resnet = self.config.architecture_d == "resnet"
        gain = math.sqrt(0.5) if is_resnet else 1.0
        if resolution == self.config.resolution:
            yield from self.layer(f"{name}.fromrgb", self.config.image_channels, c, 1, resolution)
        yield from self.layer(f"{name}.conv0", c, c, 3, resolution)
        yield from self.layer(f"{name}.conv1", c, c_out, 3, resolution, down=2, gain=gain)
        x = self.images(c, resolution)
        yield self.case("upfirdn2d", f"{name}.conv1 filter", x=x, f=self.f, padding=2)
        if is_resnet:
            yield from self.layer(f"{name}.skip", c, c_out, 1, resolution, down=2, is_skip=True)
            yield self.case("upfirdn2d", f"{name}.skip filter", x=x, f=self.f, down=2, padding=1)

    def layer(
        self, name: str, c_in: int, c_out: int, k: int, resolution: int, down: int = 1, gain=1.0, is_skip: bool = False
    ) -> Iterator[Case]:
        x, weight = self.images(c_in, resolution), self.tensor(c_out, c_in, k, k)
        yield self.case("conv2d_resample", name, x=x, weight=weight, f=self.f, down=down, padding=k // 2)
        if not is_skip:  # its gain is part of the weight
            y = self.images(c_out, resolution // down)
            yield self.case(
                "bias_act", name, x=y, b=self.tensor(c_out), act="lrelu", gain=GAIN * gain, clamp=CLAMP * gain
            )

    def rest(self) -> Iterator[Case]:
        """What is always float32: the discriminator's last layers and the mapping networks."""
        c, rows = self.config.channels(4), self.config.batch
        yield from self.layer("D b4.conv", c + 1, c, 3, 4)
        yield self.case("bias_act", "D b4.fc", x=self.tensor(rows, c), b=self.tensor(c), act="lrelu")
        x, b = self.tensor(rows, LABELS_WIDTH), self.tensor(LABELS_WIDTH)
        yield self.case("bias_act", "G mapping", x=x, b=b, act="lrelu")

    def score(self) -> Iterator[Case]:
        """The score term; dtype is that of the frozen network, which takes and gives NHWC where it is half."""
        rows = self.config.batch
        level = self.tensor(rows, dtype=torch.float32, is_leaf=False)
        noise: dict[str, Any] = dict(seed=0, stream=self.tensor(rows, dtype=torch.int64, is_leaf=False), purpose=1)
        images = self.images(self.config.image_channels, self.config.resolution, dtype=torch.float32)
        if self.dtype == torch.float32:  # noise is added in float32 for every network
            yield self.case("noise_forward", "score", x=images, alpha=level, sigma=level, **noise)
        prediction = self.images(self.config.image_channels, self.config.resolution).detach()
        prediction = prediction.contiguous(memory_format=self.layout)
        target: dict[str, Any] = dict(x=images.detach(), alpha=level, sigma=level)
        for parameterization, more in (("eps", {}), ("x0", target), ("v", target)):
            arguments = dict(parameterization=parameterization, **noise, **more)
            layer = f"score {parameterization}"
            yield self.case("denoise_distance", layer, prediction=prediction.clone().requires_grad_(), **arguments)
            yield self.case("denoise_distance_and_gradient", layer, prediction=prediction, overwrite=True, **arguments)
