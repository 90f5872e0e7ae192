"""Aurora's generator (Zhu et al., arXiv 2309.03904): mapping network and synthesis network."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smartfast.networks.aurora.attention import ResidualAttention
from smartfast.networks.aurora.experts import Routing, together
from smartfast.networks.aurora.layers import (
    ConstantInput,
    Dense,
    FourierInput,
    ModulatedConv,
    PlainConv,
    normalized,
)
from smartfast.networks.aurora.options import DEFORMABLE_BELOW, AuroraOptions


class Mapping(nn.Module):
    """Latents [N, z_dim] and label vectors [N, classes] to w [N, w_dim]."""

    def __init__(self, options: AuroraOptions) -> None:
        super().__init__()
        self.layers = options.mapping_layers
        inputs = options.z_dim
        if options.classes:
            self.embedding = Dense(options.classes, options.embedding)
            inputs += options.embedding
        widths = [inputs, *[options.mapping_width] * (self.layers - 1), options.w_dim]
        for i in range(self.layers):
            layer = Dense(widths[i], widths[i + 1], act="lrelu", lr_multiplier=options.mapping_lr_multiplier)
            setattr(self, f"dense{i}", layer)

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        x = normalized(z)
        if c is not None:
            x = torch.cat([x, normalized(self.embedding(c.to(z.dtype)))], dim=1)
        for i in range(self.layers):
            x = getattr(self, f"dense{i}")(x)
        return x


class ResidualBlock(nn.Module):
    """Two modulated convolutions [N, I, H, W] -> [N, O, H', W'], added to their input; a gain scales the sum."""

    def __init__(self, inputs: int, outputs: int, kernels: int, options: AuroraOptions, *, up: int, deformable: bool):
        super().__init__()
        self.gain = options.residual_gain
        shared: dict[str, Any] = dict(kernels=kernels, act="lrelu", clamp=options.conv_clamp)
        self.conv1 = ModulatedConv(inputs, outputs, options.w_dim, 3, up=up, taps=options.taps, **shared)
        self.conv2 = ModulatedConv(outputs, outputs, options.w_dim, 3, deformable=deformable, **shared)
        self.skip_connection: nn.Module = nn.Identity()
        if up > 1 or inputs != outputs:
            self.skip_connection = PlainConv(inputs, outputs, up=up, taps=options.taps)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x, w), w) + self.skip_connection(x)) * self.gain


class Entry(nn.Sequential):
    """What one copy of w governs: the input and a convolution, a residual block, or attention."""

    def __init__(self, *layers: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__(*layers)
        self.dtype = dtype

    def forward(self, x: Tensor | None, w: Tensor) -> tuple[Tensor, list[Routing]]:  # type: ignore[override]
        routings: list[Routing] = []
        for layer in self:
            if x is None:
                x = layer(w)
            elif isinstance(layer, ResidualAttention):
                x, routings = layer(self._cast(x), w)
            else:
                x = layer(self._cast(x), w)
        assert x is not None, "an entry has layers"
        return x, routings

    def _cast(self, x: Tensor) -> Tensor:
        return x if self.dtype is None else x.to(self.dtype)


class Synthesized(NamedTuple):
    """Images [N, channels, resolution, resolution], and how their tokens met the experts, None without experts."""

    images: Tensor
    routing: Routing | None


class Synthesis(nn.Module):
    """Copies of w [N, num_ws, w_dim] to images; see `AuroraOptions`."""

    def __init__(self, options: AuroraOptions) -> None:
        super().__init__()
        self.net = nn.ModuleList()
        inputs = options.width(options.resolutions[0] // 2)
        for level, resolution in enumerate(options.resolutions):
            outputs, dtype = options.width(resolution), options.dtype_at(level)
            for block in range(options.blocks[level]):
                layers = _convolutions(inputs, outputs, level, options, is_first=block == 0)
                self.net.append(Entry(*layers, dtype=dtype))
                inputs = outputs
                if depth := options.attention[level]:
                    attention = ResidualAttention(outputs, depth, options.experts[level], options)
                    self.net.append(Entry(attention, dtype=dtype))
        self.final_tanh, self.output_name = options.final_tanh, f"output_res_{options.resolution}x{options.resolution}"
        settings: dict[str, Any] = dict(kernels=options.kernels[-1], demodulate=False, clamp=options.conv_clamp)
        setattr(self, self.output_name, ModulatedConv(inputs, options.channels, options.w_dim, 1, **settings))

    def forward(self, ws: Tensor) -> Synthesized:
        x, routings = None, []
        for entry, w in zip(self.net, ws.unbind(dim=1), strict=True):
            x, found = entry(x, w)
            routings += found
        images = getattr(self, self.output_name)(x, ws[:, -1]).to(ws.dtype)
        return Synthesized(images.tanh() if self.final_tanh else images, together(routings))


def _convolutions(inputs: int, outputs: int, level: int, options: AuroraOptions, *, is_first: bool) -> list[nn.Module]:
    """A block of a resolution."""
    resolution, kernels = options.resolutions[level], options.kernels[level]
    deformable = options.deformable and resolution < DEFORMABLE_BELOW
    if level or not is_first:
        up = 2 if is_first else 1
        return [ResidualBlock(inputs, outputs, kernels, options, up=up, deformable=deformable)]
    first = FourierInput(inputs, resolution, options.w_dim) if options.fourier else ConstantInput(inputs, resolution)
    settings: dict[str, Any] = dict(
        kernels=kernels, deformable=options.deformable, act="lrelu", clamp=options.conv_clamp
    )
    return [first, ModulatedConv(inputs, outputs, options.w_dim, 3, **settings)]


class Generator(nn.Module):
    """From latents [N, z_dim] and label vectors [N, classes] to images [N, channels, resolution, resolution].

    w_avg: The mean w, toward which truncation pulls; whoever trains it moves it.
    """

    w_avg: Tensor

    def __init__(self, options: AuroraOptions) -> None:
        super().__init__()
        self.options = options
        self.mapping = Mapping(options)
        self.synthesis = Synthesis(options)
        self.register_buffer("w_avg", torch.zeros(options.w_dim))

    def latents(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """A copy of w for each layer, [N, num_ws, w_dim].

        Args:
            z: [N, z_dim].
            c: Label vectors [N, classes], None without classes.
            truncation_psi: 1 leaves w as it is, 0 gives the mean w.
            truncation_cutoff: Number of leading layers that are truncated; None = all.
        """
        return self.spread(self.mapping(z, c), truncation_psi, truncation_cutoff)

    def spread(self, w: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """`latents` of a w [N, w_dim]."""
        ws = w[:, None].expand(-1, self.options.num_ws, -1)
        if truncation_psi == 1:
            return ws
        cutoff = self.options.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)

    def forward(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Images; arguments as `latents`."""
        return self.synthesis(self.latents(z, c, truncation_psi, truncation_cutoff)).images
