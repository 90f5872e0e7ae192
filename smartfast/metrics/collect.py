"""Runs images through the feature extractor, shared out over the processes.

Process p of P handles the numbers p, p + P, p + 2P, ... and the features of all processes are gathered batch by batch
and put back into the order of the numbers, so that the result does not depend on P.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smartfast.metrics.extractors import Extractor

ImageSource = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Numbers int64 [n] (CPU) -> images uint8 [n, C, H, W], labels int64 [n] or None."""


@dataclass(frozen=True)
class Processes:
    """This process among all. gather: concatenates a tensor [n, ...] over the processes, in their order."""

    index: int = 0
    count: int = 1
    gather: Callable[[Tensor], Tensor] | None = None

    def in_order(self, x: Tensor) -> Tensor:
        """The rows [n, ...] of every process as [count * n, ...], row i of process p at place i * count + p."""
        if self.count == 1:
            return x
        if self.gather is None:
            raise ValueError(f"gather is None, expected a function when num_processes is {self.count}")
        return self.gather(x.contiguous()).unflatten(0, (self.count, -1)).transpose(0, 1).flatten(0, 1)

    def of_the_first(self, values: list[float], device: torch.device) -> list[float]:
        """The first process's values; the others give as many."""
        if self.count == 1:
            return values
        return self.in_order(torch.tensor(values, dtype=torch.float64, device=device))[:: self.count].tolist()

    def all_agree(self, value: bool, device: torch.device) -> bool:
        """Whether `value` is true in every process."""
        return bool(self.in_order(torch.tensor([value], dtype=torch.int64, device=device)).all())


def shares(count: int, batch: int, processes: Processes) -> Iterator[Tensor]:
    """The numbers int64 [n] that this process handles, up to `batch` at a time, out of 0..count-1.

    Every process gets as many rounds and numbers as the others, as gathering needs: the last number fills up.
    """
    for start in range(0, count, batch * processes.count):
        size = min(batch, -(-(count - start) // processes.count))
        yield (start + processes.index + processes.count * torch.arange(size)).clamp(max=count - 1)


class RunningStatistics:
    """Mean and covariance of features that arrive in batches, so that a million images need no gigabytes.

    Accumulates in float64 and equals torch_fidelity's `fid_features_to_statistics` of all features to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = torch.zeros(())
        self._products = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Takes features [N, D] of any floating dtype."""
        # Apple's GPUs have no float64.
        features = features.to("cpu" if features.device.type == "mps" else features.device, torch.float64)
        self.count += len(features)
        self._sum = self._sum + features.sum(dim=0)
        self._products = self._products + features.T @ features

    def result(self) -> dict[str, np.ndarray]:
        """{"mu": float64 [D], "sigma": float64 [D, D]}, the unbiased covariance. Needs two features or more."""
        mean = self._sum / self.count
        covariance = (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return {"mu": mean.cpu().numpy(), "sigma": covariance.cpu().numpy()}


@dataclass(frozen=True)
class Collected:
    """What is known of a set of images. Everything is on the CPU.

    statistics: mean and covariance of the features of all images. features float32 [n, D], logits float32 [n, K] and
    labels int64 [n] (None without labels): of the images that were kept; empty when none was.
    """

    statistics: dict[str, np.ndarray]
    features: Tensor
    logits: Tensor
    labels: Tensor | None


def collect(
    source: ImageSource,
    count: int,
    extractor: Extractor,
    *,
    batch: int,
    keep: int,
    device: torch.device,
    processes: Processes,
    title: str,
    progress: bool,
) -> Collected:
    """Features of the images 0..count-1 of `source`.

    Args:
        source: Makes images from their numbers.
        count: Number of images, at least 2.
        batch: Images of a process at a time.
        keep: Number of images, evenly spaced over all, whose features, logits and labels to keep.
        title: Of the progress bar.
        progress: Show the bar (in the first process only).
    """
    statistics = RunningStatistics()
    features_kept: list[Tensor] = []
    logits_kept: list[Tensor] = []
    labels_kept: list[Tensor] = []
    is_kept = torch.zeros(count, dtype=torch.bool)
    is_kept[torch.arange(min(keep, count)) * count // max(min(keep, count), 1)] = True
    is_shown = progress and processes.index == 0
    with tqdm(total=count, desc=title, unit="img", leave=False, disable=None if is_shown else True) as bar:
        for numbers in shares(count, batch, processes):
            images, labels = source(numbers)
            features, logits = extractor(images.to(device))
            chosen = is_kept[statistics.count : statistics.count + len(numbers) * processes.count]
            features = processes.in_order(features)[: len(chosen)]
            statistics.add(features)
            bar.update(len(chosen))
            if keep:
                features_kept.append(features.cpu()[chosen])
                logits_kept.append(processes.in_order(logits)[: len(chosen)].cpu()[chosen])
            if keep and labels is not None:
                labels_kept.append(processes.in_order(labels.to(device))[: len(chosen)].cpu()[chosen])
    return Collected(
        statistics.result(),
        torch.cat(features_kept) if keep else torch.empty(0),
        torch.cat(logits_kept) if keep else torch.empty(0),
        torch.cat(labels_kept) if labels_kept else None,
    )
