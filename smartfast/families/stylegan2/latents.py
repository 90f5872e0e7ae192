"""What StyleGAN2's generator consumes, drawn from the numbers of the images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.core.draws import Purpose, one_hot
from smartfast.kernels import philox_normal, philox_uniform


class Latents(NamedTuple):
    """What a generator pass consumes.

    z: [N, z_dim]. z_mix, cutoff: a second latent [N, z_dim] for the layers from `cutoff` [N, 1] on, or None.
    labels: class indices int64 [N], vectors [N, classes] or None; c: the same as vectors, float [N, classes]. noise:
    one unit-normal tensor [N, 1, H, W] per layer, or a name that `Synthesis.forward` knows.
    """

    z: Tensor
    z_mix: Tensor | None
    cutoff: Tensor | None
    labels: Tensor | None
    c: Tensor | None
    noise: Sequence[Tensor] | str


class LatentSampler:
    """Draws the latents of training passes.

    Args:
        seed: Of the run.
        z_dim, num_ws, noise_shapes: Of the generator.
        data_labels: int64 [M], or vectors [M, num_classes], the labels of the training images; fakes get the label of
            a random one. None = unconditional.
        num_classes: Classes of `data_labels`.
        style_mixing_prob: Probability that an image takes its later styles from a second latent.
    """

    def __init__(
        self,
        *,
        seed: int,
        z_dim: int,
        num_ws: int,
        noise_shapes: Sequence[tuple[int, int]],
        data_labels: Tensor | None,
        num_classes: int,
        style_mixing_prob: float,
    ) -> None:
        self.seed, self.z_dim, self.num_ws = seed, z_dim, num_ws
        self.noise_shapes = list(noise_shapes)
        self.data_labels, self.num_classes = data_labels, num_classes
        self.style_mixing_prob = style_mixing_prob

    def __call__(self, purpose: Purpose, stream: Tensor, labels: Tensor | None = None) -> Latents:
        """Latents of the images numbered `stream` (int64 [N]) for the pass named by `purpose`.

        labels: int64 [N], None = those of random training images.
        """
        mixes = self.style_mixing_prob > 0
        sizes = [self.z_dim] * (2 if mixes else 1) + [h * w for h, w in self.noise_shapes]
        normal = philox_normal(self.seed, stream, sum(sizes), purpose).split(sizes, dim=1)
        coin, place, which = philox_uniform(self.seed, stream, 3, purpose + Purpose.CHOICES).unbind(dim=1)
        noise = normal[2 if mixes else 1 :]
        if labels is None and self.data_labels is not None:
            labels = self.data_labels[(which * len(self.data_labels)).to(torch.int64)]
        cutoff = torch.where(coin < self.style_mixing_prob, 1 + (place * (self.num_ws - 1)).floor(), float(self.num_ws))
        return Latents(
            z=normal[0],
            z_mix=normal[1] if mixes else None,
            cutoff=cutoff[:, None] if mixes else None,
            labels=labels,
            c=one_hot(labels, self.num_classes),
            noise=[x.reshape(-1, 1, h, w) for x, (h, w) in zip(noise, self.noise_shapes, strict=True)],
        )
