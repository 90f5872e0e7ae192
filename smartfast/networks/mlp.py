"""Small networks of fully connected layers, for points of the plane."""

from itertools import pairwise

from torch import Tensor, nn


def _layers(inputs: int, outputs: int, width: int, depth: int, activation: type[nn.Module]) -> list[nn.Module]:
    sizes = [inputs, *[width] * depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
    return [*hidden, nn.Linear(width, outputs)]


class PointGenerator(nn.Sequential):
    """Points [N, 2, 1, 1] of latents [N, z_dim].

    Args:
        z_dim: Dimension of a latent.
        width, depth: Of the hidden layers (SiLU).
    """

    def __init__(self, z_dim: int, width: int, depth: int) -> None:
        super().__init__(*_layers(z_dim, 2, width, depth, nn.SiLU))
        self.z_dim = z_dim

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """c: None, there are no classes."""
        return super().forward(z)[:, :, None, None]


class PointDiscriminator(nn.Sequential):
    """Logits [N, 1] of points [N, 2, 1, 1]; width, depth: of the hidden layers (leaky ReLU)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(*_layers(2, 1, width, depth, nn.LeakyReLU))

    def forward(self, points: Tensor, c: Tensor | None = None) -> Tensor:
        """c: None, there are no classes."""
        return super().forward(points.flatten(1))
