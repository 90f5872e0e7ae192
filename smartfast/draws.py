"""Every random number of a training run, as a pure function of (seed, purpose, image number).

Image number n is the n-th real image shown to the discriminator, counted over the whole run and all
processes; its latents, noise, mirror flips and timesteps are numbered alike. So nothing random has to
be saved to resume a run, and splitting a batch over processes changes no number.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.kernels import philox_normal, philox_uniform


class Purpose(IntEnum):
    """What a random number is for; two purposes never share one."""

    MIRROR = 1
    D_MAIN = 2
    G_MAIN = 3
    G_PATH = 4
    G_SCORE = 5
    PATH_PIXELS = 6
    TIMESTEP = 7
    SCORE_NOISE = 8
    SAMPLE = 9
    GRID = 10
    SCORE_PART = 11
    CHOICES = 16  # added to a purpose: uniform numbers beside its normal ones


class Latents(NamedTuple):
    """What a generator pass consumes.

    z: [N, z_dim]. z_mix, cutoff: a second latent [N, z_dim] for the layers from `cutoff` [N, 1] on, or None.
    labels: class indices int64 [N] or None; c: the same one-hot, float [N, classes]. noise: one unit-normal
    tensor [N, 1, H, W] per layer, or a name that `Synthesis.forward` knows.
    """

    z: Tensor
    z_mix: Tensor | None
    cutoff: Tensor | None
    labels: Tensor | None
    c: Tensor | None
    noise: Sequence[Tensor] | str


def one_hot(labels: Tensor | None, num_classes: int) -> Tensor | None:
    """Label vectors float32 [N, num_classes] of class indices int64 [N]; None stays None.

    Unlike `torch.nn.functional.one_hot`, it reads nothing back from the device to check the labels.
    """
    if labels is None:
        return None
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)


class LatentSampler:
    """Draws the latents of training passes.

    Args:
        seed: Of the run.
        z_dim, num_ws, noise_shapes: Of the generator.
        data_labels: int64 [M], the labels of the training images; fakes get the label of a random one. None =
            unconditional.
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


def draw_timesteps(seed: int, stream: Tensor, first: int, last: int) -> Tensor:
    """One timestep per image, uniform over first..last (both included), int64 [N]."""
    uniform = philox_uniform(seed, stream, 1, Purpose.TIMESTEP)[:, 0]
    return first + (uniform * (last - first + 1)).to(torch.int64)


def batch_positions(batch: int, parts: int, group: int) -> list[Tensor]:
    """Places in the global batch of each part of it (a process, or one round of gradient accumulation).

    The minibatch standard deviation of StyleGAN2 puts sample n into group n mod (batch / group). The parts are
    cut so that each holds whole groups, in an order in which the part alone forms the same groups: training on
    the parts then equals training on the batch.

    Args:
        batch: Images of the global batch.
        parts: Number of equal parts; divides `batch`.
        group: Group size of the minibatch standard deviation, 1 when it is off. Where a part is smaller than a
            group, a part is one group and equality is lost, as in StyleGAN2.

    Returns:
        `parts` int64 tensors [batch / parts].
    """
    size = batch // parts
    group = min(group, size)
    places = torch.arange(batch).reshape(group, parts, size // group)
    return [places[:, part].flatten() for part in range(parts)]
