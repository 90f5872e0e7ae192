"""Layers whose weight is divided by an estimate of its largest singular value (Miyato et al., arXiv 1802.05957).

The estimate follows the weight by power iteration: in training mode each forward pass makes one from the vector `u0`
and keeps the result there; in evaluation mode it makes one and keeps nothing. `sv0` is the estimate, for the record.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Start = Literal["orthogonal", "normal"]


@dataclass(frozen=True)
class SpectralOptions:
    """eps: Least length of a vector that is normalised. vectors: Singular vectors that are followed; the largest
    singular value divides. iterations: Of the power method per forward pass in training."""

    eps: float = 1e-6
    vectors: int = 1
    iterations: int = 1


def power_iteration(weight: Tensor, us: Sequence[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """One step of the power method for the largest singular values, each orthogonal to those before it.

    Args:
        weight: [O, I].
        us: Left singular vectors so far, [O] each.

    Returns:
        The left vectors [O] and right vectors [I] behind the step, of length 1.
    """
    new_us: list[Tensor] = []
    new_vs: list[Tensor] = []
    for u in us:
        new_vs.append(F.normalize(_orthogonal_to(new_vs, torch.mv(weight.t(), u)), dim=0, eps=eps))
        new_us.append(F.normalize(_orthogonal_to(new_us, torch.mv(weight, new_vs[-1])), dim=0, eps=eps))
    return new_us, new_vs


def _orthogonal_to(others: Sequence[Tensor], vector: Tensor) -> Tensor:
    for other in others:
        vector = vector - (vector * other).sum() / other.square().sum() * other
    return vector


class SpectralNorm(nn.Module):
    """A `weight` [O, ...] and what its normalisation remembers: `u0` [1, O], `sv0` [1], and so on for more vectors."""

    u0: Tensor

    def __init__(self, shape: Sequence[int], options: SpectralOptions) -> None:
        super().__init__()
        self.options = options
        self.weight = nn.Parameter(torch.empty(shape))
        for index in range(options.vectors):
            self.register_buffer(f"u{index}", torch.randn(1, shape[0]))
            self.register_buffer(f"sv{index}", torch.ones(1))
        self.moving_buffers = self.averaged_buffers = tuple(name for name, _ in self.named_buffers(recurse=False))
        start_weight(self.weight, "normal")

    def normalised(self) -> Tensor:
        """The weight over the estimate, whose gradient takes the singular vectors for constants."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            us = [self.get_buffer(f"u{index}")[0] for index in range(self.options.vectors)]
            for _ in range(self.options.iterations if self.training else 1):
                us, vs = power_iteration(matrix, us, self.options.eps)
        values = [(torch.mv(matrix, v) * u).sum() for u, v in zip(us, vs, strict=True)]
        if self.training:
            self._remember(us, values)
        return self.weight / values[0]

    @torch.no_grad()
    def _remember(self, us: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        for index, (u, value) in enumerate(zip(us, values, strict=True)):
            self.get_buffer(f"u{index}").copy_(u[None])
            self.get_buffer(f"sv{index}").copy_(value[None])


class SNConv(SpectralNorm):
    """A convolution that keeps the size, in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, options: SpectralOptions, *, bias: bool = True) -> None:
        super().__init__((outputs, inputs, kernel, kernel), options)
        self.bias = new_bias(outputs, inputs * kernel**2) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.normalised().to(x.dtype), bias, padding=self.weight.shape[2] // 2)


class SNLinear(SpectralNorm):
    """[N, inputs] -> [N, outputs]."""

    def __init__(self, inputs: int, outputs: int, options: SpectralOptions, *, bias: bool = True) -> None:
        super().__init__((outputs, inputs), options)
        self.bias = new_bias(outputs, inputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SNTable(SpectralNorm):
    """One vector for each class, [classes, width]."""

    def __init__(self, classes: int, width: int, options: SpectralOptions) -> None:
        super().__init__((classes, width), options)

    def forward(self, c: Tensor) -> Tensor:
        return look_up(self.normalised(), c)


class Table(nn.Module):
    """One vector for each class, [classes, width], as it is."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        start_weight(self.weight, "normal")

    def forward(self, c: Tensor) -> Tensor:
        return look_up(self.weight, c)


def look_up(table: Tensor, c: Tensor) -> Tensor:
    """Rows of a table [classes, width] by label vectors [N, classes], mixed as they are mixed."""
    return c.to(table.dtype) @ table


def new_bias(outputs: int, inputs: int) -> nn.Parameter:
    """Uniform within 1 / sqrt(inputs), as PyTorch's layers begin."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))


def start_weight(weight: Tensor, start: Start) -> None:
    """Orthogonal rows or columns (Saxe et al., arXiv 1312.6120), or normal numbers of standard deviation 0.02."""
    if start == "orthogonal":
        nn.init.orthogonal_(weight)
    else:
        nn.init.normal_(weight, std=0.02)
