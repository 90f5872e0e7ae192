"""What measurements read of a training, whatever it trains: when its phases run, its networks, a generator's images.

Nothing else in bench knows the names of phases or how the networks are built.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smartfast import kernels
from smartfast.config.schema import Config
from smartfast.core.draws import one_hot
from smartfast.engine.phase import TrainedNetwork
from smartfast.families.stylegan2_networks import build_networks
from smartfast.run.training import Training
from smartfast.scorers import Scorer


class Scheduled(NamedTuple):
    """When a phase runs: `repeat` times in every `interval`-th iteration, there in place of the phase `replaces`."""

    name: str
    interval: int
    replaces: str | None = None
    repeat: int = 1


def schedule(training: Training) -> list[Scheduled]:
    """The phases that run at all, in the training's order."""
    loss, smart = training.config.loss, training.config.smart
    path_interval = loss.path_length_interval if loss.path_length_weight else 0
    intervals = {"g_score": smart.frequency, "g_path": path_interval, "d_r1": loss.r1_interval}
    phases = [
        Scheduled(name, intervals.get(name, 1), "g_main" if name == "g_score" else None) for name in training.phases
    ]
    return [phase for phase in phases if phase.interval]


def runs_per_iteration(training: Training) -> dict[str, float]:
    """How often each phase runs that runs at all; below 1 for lazy phases and for those that are replaced."""
    phases = schedule(training)
    runs = {phase.name: phase.repeat / phase.interval for phase in phases}
    for phase in phases:
        if phase.replaces is not None:
            runs[phase.replaces] -= 1 / phase.interval
    return {name: share for name, share in runs.items() if share}


def period(training: Training) -> int:
    """Iterations after which the schedule of the phases repeats."""
    return math.lcm(*(phase.interval for phase in schedule(training)))


def replacements(training: Training) -> dict[str, str]:
    """The phases that run in place of another, which they extend by the score term, and that other."""
    return {phase.name: phase.replaces for phase in schedule(training) if phase.replaces is not None}


def networks(training: Training) -> dict[str, TrainedNetwork]:
    """The trained networks by name."""
    return {"g": training.g, "d": training.d}


def modules(training: Training, scorer: Scorer | None) -> dict[str, nn.Module]:
    """Every network that a phase runs, by the prefix that the names of its layers get."""
    found: dict[str, nn.Module] = {name: network.module for name, network in networks(training).items()}
    return found if scorer is None else found | {"scorer": scorer}


def skipped_steps(training: Training) -> int:
    """Optimizer steps so far that were skipped because something was not finite."""
    return int(sum(network.guard.total for network in networks(training).values()))


class ImageSource(NamedTuple):
    """A generator with float32 weights. images: Runs it on `batch` latents, the same ones every time, [N, C, H, W]."""

    module: nn.Module
    images: Callable[[], Tensor]


def image_source(config: Config, scorer: Scorer, labels: Tensor, *, resolution: int) -> ImageSource:
    """The generator of a configuration, with the channels and the classes of a scorer; in plain PyTorch.

    Args:
        config: Of the trainer.
        scorer: What is to score the images.
        labels: int64 [N], the images' classes; their device is the generator's.
        resolution: Of the images, which need not be the configuration's.
    """
    generator, _ = build_networks(
        config.gan,
        resolution=resolution,
        channels=scorer.channels,
        num_classes=scorer.num_classes,
        precision="fp32",
        seed=config.run.seed,
    )
    generator = generator.to(labels.device)
    z = torch.randn(len(labels), generator.z_dim, device=labels.device)
    c = one_hot(labels, generator.c_dim) if generator.c_dim else None

    def images() -> Tensor:
        torch.manual_seed(config.run.seed)
        with kernels.use("reference"):
            return generator(z, c, noise="random")

    return ImageSource(generator, images)
