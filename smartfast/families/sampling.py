"""Samples of the averaged generator for grids and metrics, as pure functions of the sample numbers."""

import torch
from torch import Tensor

from smartfast.core.draws import LatentSampler, Purpose, one_hot
from smartfast.core.grids import GridShape
from smartfast.core.pixels import to_uint8
from smartfast.data import ImageDataset
from smartfast.networks.stylegan2 import Generator
from smartfast.run.training import Training


class Sampler:
    """Draws images from a generator; sample n is the same whatever batch or process it is drawn in.

    Args:
        generator: Usually the averaged one.
        data_labels: Labels of the training images on the generator's device, None = unconditional.
        seed: Of the run.
        truncation_psi: 1 = none.
    """

    def __init__(
        self, generator: Generator, data_labels: Tensor | None, *, seed: int, truncation_psi: float = 1.0
    ) -> None:
        self.generator, self.truncation_psi = generator, truncation_psi
        self.latents = LatentSampler(
            seed=seed,
            z_dim=generator.z_dim,
            num_ws=generator.num_ws,
            noise_shapes=generator.synthesis.noise_shapes,
            data_labels=data_labels,
            num_classes=generator.c_dim,
            style_mixing_prob=0.0,
        )

    @classmethod
    def of(cls, training: Training) -> "Sampler":
        """A sampler of a run's averaged generator."""
        return cls(training.ema.module, training.latents.data_labels, seed=training.config.run.seed)

    @torch.no_grad()
    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 [N, C, H, W] and labels int64 [N] or None of the samples numbered int64 [N]."""
        latents = self.latents(Purpose.SAMPLE, numbers.to(self._device))
        images = self.generator(latents.z, latents.c, self.truncation_psi, noise=latents.noise)
        return to_uint8(images), latents.labels

    @torch.no_grad()
    def grid(self, shape: GridShape, *, batch: int = 64) -> Tensor:
        """uint8 [cells, C, H, W], row by row; with labels each column is one class."""
        numbers = torch.arange(shape.cells, device=self._device)
        labels = column_class(numbers, shape, self.generator.c_dim).to(self._device) if self.generator.c_dim else None
        pieces = []
        for start in range(0, len(numbers), batch):
            piece = slice(start, start + batch)
            latents = self.latents(Purpose.GRID, numbers[piece])
            c = one_hot(None if labels is None else labels[piece], self.generator.c_dim)
            pieces.append(to_uint8(self.generator(latents.z, c, self.truncation_psi, noise=latents.noise)))
        return torch.cat(pieces)

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device


def column_class(cells: Tensor, shape: GridShape, num_classes: int) -> Tensor:
    """The class of each cell of a sheet, int64: one per column, evenly spread where there are more classes."""
    columns = cells % shape.columns
    return columns % num_classes if num_classes <= shape.columns else columns * num_classes // shape.columns


def real_grid(dataset: ImageDataset, shape: GridShape) -> Tensor:
    """uint8 [cells, C, H, W] of evenly spaced training images; with labels each column is one class."""
    if dataset.labels is None:
        indices = torch.arange(shape.cells) * len(dataset) // shape.cells
    else:
        members = [torch.nonzero(dataset.labels == label)[:, 0] for label in range(dataset.num_classes)]
        classes = column_class(torch.arange(shape.cells), shape, dataset.num_classes).tolist()
        of_class = [members[label] for label in classes]
        indices = torch.stack([m[cell // shape.columns % len(m)] for cell, m in enumerate(of_class) if len(m)])
    return torch.stack([dataset[int(i)][0] for i in indices])
