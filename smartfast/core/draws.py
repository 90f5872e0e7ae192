"""Every random number of a training run, as a pure function of (seed, purpose, image number).

Image number n is the n-th real image shown to the discriminator, counted over the whole run and all
processes; its latents, noise, mirror flips and timesteps are numbered alike. So nothing random has to
be saved to resume a run, and splitting a batch over processes changes no number.
"""

from enum import IntEnum

import torch
from torch import Tensor

from smartfast.kernels import philox_uniform


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
    SELF_CHECK = 12
    LABEL_DROPOUT = 13
    PENALTY_REALS = 14
    PENALTY_FAKES = 15
    FURTHER_STEPS = 73
    AUGMENT_FAKES = 64
    AUGMENT_REALS = 65
    AUGMENT_G = 66
    AUGMENT_REALS_AGAIN = 67
    STANDING = 68
    TRUNCATION = 69
    SCORE_CROP = 70
    PERTURBATION = 71
    PROJECTION = 72
    CHOICES = 16  # added to a purpose: uniform numbers beside its normal ones
    PIXELS = 32  # added to a purpose: normal numbers of pixels beside those of images


def are_vectors(labels: Tensor | None) -> bool:
    """Whether labels are vectors float [N, F], several or continuous ones per image, rather than classes int64 [N]."""
    return labels is not None and labels.is_floating_point()


def one_hot(labels: Tensor | None, num_classes: int) -> Tensor | None:
    """Label vectors float32 [N, num_classes] of class indices int64 [N]; vectors stay as they are, None stays None.

    Unlike `torch.nn.functional.one_hot`, it reads nothing back from the device to check the labels.
    """
    if labels is None or labels.is_floating_point():
        return labels
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)


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
