"""Images from an averaged network, for grids, metrics and tools, as pure functions of sample numbers or seeds."""

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from smartfast.core.draws import Purpose, are_vectors, one_hot
from smartfast.core.grids import GridShape
from smartfast.core.pixels import to_uint8
from smartfast.data.holdout import TrainingImages
from smartfast.errors import UserError
from smartfast.kernels import philox_normal, philox_uniform

Noise = Literal["const", "random", "none"]

_NO_STYLES = "checkpoint: found a network without style layers, expected one with them, as StyleGAN2's"


@dataclass(frozen=True)
class Look:
    """How images are drawn. psi: truncation, 1 = none. cutoff: leading layers that it acts on, None = all. noise: of
    the generator's layers, where it has any: the stored one, one that the seed draws, or none. threshold: values of a
    latent beyond it are drawn again, None = none."""

    psi: float = 1.0
    cutoff: int | None = None
    noise: Noise = "const"
    threshold: float | None = None


PLAIN = Look()
"""What metrics and training see."""


class Sampler(ABC):
    """Draws images from a network; sample n is the same whatever batch or process it is drawn in.

    Args:
        module: The network, usually an averaged one.
        image_shape: Channels, height, width.
        num_classes: Length of a label vector, 0 = unconditional.
        data_labels: Labels of the training images, int64 [M] or vectors [M, num_classes], on the network's device;
            samples take those of random images. None = unconditional, or samples that are given labels.
        seed: Of the run.
        look: Of the samples.

    Attributes:
        z_shape: Of an image's latent, which is unit normal.
        spaces: Where images can be mixed, the best first: latents (z), and what lies between them and the images.
        steps: Passes of a sample; None = one, and there is no choice.
    """

    z_shape: tuple[int, ...]
    steps: int | None = None
    spaces: ClassVar[tuple[str, ...]] = ("z",)

    def __init__(
        self,
        module: nn.Module,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        data_labels: Tensor | None = None,
        seed: int = 0,
        look: Look = PLAIN,
    ) -> None:
        self.module, self.image_shape, self.num_classes = module, image_shape, num_classes
        self.data_labels, self.seed, self.look = data_labels, seed, look

    def of_data(self, data_labels: Tensor | None, *, seed: int, look: Look = PLAIN) -> Self:
        """The sampler of the same network for other labels, another seed or look."""
        other = copy.copy(self)
        other.data_labels, other.seed, other.look = data_labels, seed, look
        return other

    def in_steps(self, steps: int) -> Self:
        """The sampler of the same network that takes so many passes for a sample.

        Raises:
            UserError: The network has no choice of them, or not of so many.
        """
        if self.steps is None:
            raise UserError(f"steps is {steps}, expected unset: this network draws an image in one pass")
        self.check_steps(steps)
        other = copy.copy(self)
        other.steps = steps
        return other

    def check_steps(self, steps: int) -> None:  # noqa: B027, most take any
        """Raise UserError, one line, where a sample cannot take so many."""

    def draw(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Images float [N, C, H, W] in [-1, 1] and labels of the samples numbered int64 [N]; labels None = drawn.

        Differentiable. It draws a latent and a label; a network that consumes more random numbers has a `draw` of its
        own.
        """
        if labels is None and self.data_labels is not None:
            which = philox_uniform(self.seed, numbers, 1, purpose + Purpose.CHOICES)[:, 0]
            labels = self.data_labels[(which * len(self.data_labels)).to(torch.int64)]
        z = philox_normal(self.seed, numbers, math.prod(self.z_shape), int(purpose)).view(-1, *self.z_shape)
        return self.images(z, one_hot(labels, self.num_classes), numbers, self.look), labels

    @abstractmethod
    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        """Images float [N, C, H, W] of latents [N, *z_shape], label vectors [N, classes] and seeds int64 [N].

        Raises:
            UserError: The network has no such look.
        """

    @property
    def style_layers(self) -> int:
        """Layers that take a style of their own, from which images can be mixed and projected; 0 = none do."""
        return 0

    def styles(self, z: Tensor, c: Tensor | None, look: Look) -> Tensor:
        """Styles [N, style_layers, F] of latents [N, *z_shape] and label vectors [N, classes], truncated by `look`.

        Raises:
            UserError: The network has no style layers.
        """
        raise UserError(_NO_STYLES)

    def styled(self, styles: Tensor, look: Look) -> Tensor:
        """Images float [N, C, H, W] of styles [N, style_layers, F], differentiable; of `look` the noise, which no seed
        draws, is all that matters.

        Raises:
            UserError: The network has no style layers.
        """
        raise UserError(_NO_STYLES)

    def keys(self, seeds: Tensor, look: Look) -> Tensor:
        """Latents [N, *z_shape] of seeds int64 [N], as `images` of that look have them, for `mix` to go between.

        Raises:
            UserError: The network has no such look.
        """
        if look.threshold is not None:
            raise UserError(
                f"found truncation_threshold {look.threshold:g}, expected none: that is BigGAN's truncation"
            )
        return seeded_latents(seeds, self.z_shape).to(self.device)

    def mix(self, z: Tensor, c: Tensor | None, places: "Places", *, space: str, look: Look) -> Tensor:
        """Images float [F, C, H, W] at places between `keys` z [K, *z_shape] with label vectors c [K, classes]."""
        mixed = None if c is None else c[places.start].lerp(c[places.end], places.fraction[:, None])
        start, end = z[places.start].flatten(1), z[places.end].flatten(1)
        latents = slerp(start, end, places.fraction).view(-1, *self.z_shape)
        return self.images(latents, mixed, places.start, look)

    @torch.no_grad()
    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 [N, C, H, W] and labels int64 [N], vectors, or None of the samples numbered int64 [N]."""
        images, labels = self.draw(Purpose.SAMPLE, numbers.to(self.device), None)
        return to_uint8(images), labels

    @torch.no_grad()
    def grid(self, shape: GridShape, *, batch: int = 64) -> Tensor:
        """uint8 [cells, C, H, W], row by row; with classes each column is one class, label vectors are drawn."""
        numbers = torch.arange(shape.cells, device=self.device)
        has_classes = self.num_classes and not are_vectors(self.data_labels)
        labels = column_class(numbers, shape, self.num_classes).to(self.device) if has_classes else None
        pieces = []
        for piece in torch.arange(shape.cells).split(batch):
            places = piece.to(self.device)
            images, _ = self.draw(Purpose.GRID, numbers[places], None if labels is None else labels[places])
            pieces.append(to_uint8(images))
        return torch.cat(pieces)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device


@dataclass(frozen=True)
class Places:
    """Places between key points: indices of the points before and behind, int64 [F], and the way between, [F]."""

    start: Tensor
    end: Tensor
    fraction: Tensor


def seeded_latents(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Unit-normal latents float32 [N, *shape] of seeds int64 [N] in 0..2**32-1, each a function of its seed alone.

    They are those that stylegan2-ada-pytorch's and stylegan3's generate scripts use for the same seed.
    """
    rows = [np.random.RandomState(seed).randn(*shape) for seed in seeds.tolist()]
    return torch.from_numpy(np.stack(rows)).to(torch.float32)


def label_vectors(labels: Tensor | None, num_classes: int, device: torch.device) -> Tensor | None:
    """One-hot vectors of labels int64 [N], or vectors as they are, on a device; None without labels."""
    return one_hot(None if labels is None else labels.to(device), num_classes)


def usual_labels(sampler: Sampler, seeds: Tensor) -> Tensor | None:
    """Labels of seeds int64 [N] that nobody gave any: class s mod classes, or in turn the vectors that are known."""
    if not sampler.num_classes:
        return None
    known = sampler.data_labels
    return seeds % sampler.num_classes if known is None or not are_vectors(known) else known.cpu()[seeds % len(known)]


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Spherical interpolation of the directions of a and b [N, F] (Shoemake, SIGGRAPH 1985), linear in their lengths.

    Directions less than about 0.01 degrees apart, or opposite, which has no unique arc, are mixed linearly.

    Args:
        fraction: [N], 0 gives a, 1 gives b.
    """
    fraction = fraction[:, None]
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    direction_a, direction_b = a / length_a, b / length_b
    difference, total = direction_a - direction_b, direction_a + direction_b
    angle = 2 * torch.atan2(difference.norm(dim=1, keepdim=True), total.norm(dim=1, keepdim=True))
    sine = torch.sin(angle)
    is_arc = sine > 1e-4
    safe_sine = torch.where(is_arc, sine, 1.0)
    weight_a = torch.where(is_arc, torch.sin((1 - fraction) * angle) / safe_sine, 1 - fraction)
    weight_b = torch.where(is_arc, torch.sin(fraction * angle) / safe_sine, fraction)
    return (direction_a * weight_a + direction_b * weight_b) * length_a.lerp(length_b, fraction)


@torch.no_grad()
def draw_path(
    sampler: Sampler,
    seeds: Tensor,
    labels: Tensor | None,
    *,
    steps: int,
    loop: bool,
    space: str = "auto",
    look: Look = PLAIN,
    batch: int = 32,
) -> Tensor:
    """The images of a path through those of several seeds.

    Args:
        sampler: Draws them.
        seeds: Key points, int64 [K], K >= 2.
        labels: Their classes, int64 [K], or vectors; None for unconditional networks. Between two key points of
            different labels the label vectors (space z) or the latents (space w) are mixed.
        steps: Images from one key point to just before the next.
        loop: Return from the last to the first.
        space: Where images are mixed; auto takes the best one.
        look: Of the images.
        batch: Images at a time.

    Returns:
        uint8 [F, C, H, W] on the CPU with F = K * steps, or (K - 1) * steps + 1 without `loop`.

    Raises:
        UserError: The network has no such space or look.
    """
    space = sampler.spaces[0] if space == "auto" else space
    if space not in sampler.spaces:
        raise UserError(f"space: found {space}, expected one of {', '.join(sampler.spaces)} for this network")
    z = sampler.keys(seeds, look)
    c = label_vectors(labels, sampler.num_classes, sampler.device)
    position = torch.arange(len(seeds) * steps if loop else (len(seeds) - 1) * steps + 1, device=sampler.device)
    start = position // steps % len(seeds)
    end = (start + 1) % len(seeds)
    fraction = position % steps / steps
    pieces = []
    for part in torch.arange(len(position), device=sampler.device).split(batch):
        places = Places(start[part], end[part], fraction[part])
        pieces.append(to_uint8(sampler.mix(z, c, places, space=space, look=look)).cpu())
    return torch.cat(pieces)


def column_class(cells: Tensor, shape: GridShape, num_classes: int) -> Tensor:
    """The class of each cell of a sheet, int64: one per column, evenly spread where there are more classes."""
    columns = cells % shape.columns
    return columns % num_classes if num_classes <= shape.columns else columns * num_classes // shape.columns


def real_grid(dataset: TrainingImages, shape: GridShape) -> Tensor:
    """uint8 [cells, C, H, W] of evenly spaced training images; with classes each column is one, or black."""
    if dataset.labels is None or are_vectors(dataset.labels):
        indices = torch.arange(shape.cells) * len(dataset) // shape.cells
    else:
        members = [torch.nonzero(dataset.labels == label)[:, 0] for label in range(dataset.num_classes)]
        classes = column_class(torch.arange(shape.cells), shape, dataset.num_classes).tolist()
        of_class = [members[label] for label in classes]
        indices = torch.tensor([m[i // shape.columns % len(m)] if len(m) else -1 for i, m in enumerate(of_class)])
    black = torch.zeros_like(dataset.image(0))
    return torch.stack([dataset.image(int(i)) if i >= 0 else black for i in indices])
