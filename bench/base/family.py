"""What measurements read of a training, whatever it trains: when its phases run, its networks, a generator's images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from smartfast import kernels
from smartfast.config.schema import Config
from smartfast.core.draws import Purpose
from smartfast.data.holdout import TrainingImages
from smartfast.engine.phase import ComputedPhase
from smartfast.families import FAMILIES
from smartfast.run.training import Training
from smartfast.scorers import Scorer


def runs_per_iteration(training: Training) -> dict[str, float]:
    """How often each phase runs that runs at all; below 1 for lazy phases and for those that are replaced."""
    runs = {spec.name: spec.repeat / spec.interval for spec in training.specs}
    for spec in training.specs:
        if spec.replaces is not None:
            runs[spec.replaces] -= 1 / spec.interval
    return {name: share for name, share in runs.items() if share}


def replacements(training: Training) -> dict[str, str]:
    """The phases that run in place of another, which they extend by the score term, and that other."""
    return {spec.name: spec.replaces for spec in training.specs if spec.replaces is not None}


def modules(training: Training, scorer: Scorer | None) -> dict[str, nn.Module]:
    """Every network that a phase runs, by the prefix that the names of its layers get."""
    found: dict[str, nn.Module] = {name: network.module for name, network in training.networks.items()}
    return found if scorer is None else found | {"scorer": scorer}


def skipped_steps(training: Training) -> int:
    """Optimizer steps so far that were skipped because something was not finite."""
    return int(sum(phase.guard.total for phase in training.phases.values()))


def computed(training: Training, name: str) -> ComputedPhase:
    """A phase of the first round of the batch that is loaded, its gradients without the loss scale."""
    phase = training.phases[name]
    loss, statistics, gradients = phase.compute(training.rounds[0])
    return loss, statistics, tuple(gradient / phase.spec.loss_scale for gradient in gradients)


class ImageSource(NamedTuple):
    """A generator with float32 weights. images: Runs it on the same random numbers every time, [N, C, H, W]."""

    module: nn.Module
    images: Callable[[], Tensor]


@dataclass(frozen=True)
class _Shapes:
    """Of the images that a family is made for, where there are none."""

    resolution: int
    channels: int
    num_classes: int
    labels: None = None


def image_source(config: Config, scorer: Scorer, labels: Tensor, *, resolution: int) -> ImageSource:
    """The averaged network of a configuration, with the channels and classes of a scorer, in plain PyTorch.

    Args:
        config: Of the trainer.
        scorer: What is to score the images.
        labels: int64 [N], the images' classes; their device is the generator's.
        resolution: Of the images, which need not be the configuration's.
    """
    config = replace(config, perf=replace(config.perf, precision="fp32"))
    shapes = cast(TrainingImages, _Shapes(resolution, scorer.channels, scorer.num_classes))
    family = FAMILIES[config.gan.family](config, shapes)
    generator = family.modules[family.averaged].to(labels.device)
    sampler, numbers = family.sampler(generator, seed=config.run.seed), torch.arange(len(labels), device=labels.device)

    def images() -> Tensor:
        with kernels.use("aten"):
            return sampler.draw(Purpose.G_MAIN, numbers, labels if scorer.num_classes else None)[0]

    return ImageSource(generator, images)
