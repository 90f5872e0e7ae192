"""How a phase runs: gradients, accumulation, averaging over processes, optimizer step, what moves with it.

Nothing here reads a value back from the device, and everything that lasts stays in the same memory, so that whole steps
can be captured in CUDA graphs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smartfast.core.distributed import average_over_processes_
from smartfast.engine.adam import Adam, AdamSettings
from smartfast.engine.flat import FlatParameters, MovingBuffers, aligned_zeros, round_up
from smartfast.engine.schedules import DeviceScalars
from smartfast.engine.statistics import Statistics

PhaseResult = tuple[Tensor, dict[str, Tensor]]
"""The loss to minimise, and statistics: detached scalars. A tensor that is still part of the graph stands for the
length of the loss's gradient with respect to it."""

ComputedPhase = tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Carried:
    """A statistic that is averaged over rounds and processes together with the gradient.

    name: Of the statistic. size: Its number of values. commit: Runs inside the step, with the average, flat, and a
    scalar that is 1.0 if the step was skipped, else 0.0. is_shown: It remains among the statistics.
    """

    name: str
    size: int
    commit: Callable[[Tensor, Tensor], None]
    is_shown: bool = False


@dataclass(frozen=True)
class PhaseSpec:
    """What a family says of one of its phases.

    name: For the status line. network: The one it trains. loss: Function of a round of images, pure but for moving
    buffers. interval: Iterations between two runs. replaces: The phase that it takes the place of where it is due.
    repeat: Steps per iteration, each with images and numbers of its own. gain: Factor of the loss. loss_scale: Power of
    two that the gradient has on its way through half-precision layers. carried: What is averaged with the gradient.
    averages_inside: The loss itself averages over the processes, so that its gradient is not captured in a CUDA graph
    with several.
    """

    name: str
    network: str
    loss: Callable[[Any], PhaseResult]
    interval: int = 1
    replaces: str | None = None
    repeat: int = 1
    gain: float = 1.0
    loss_scale: float = 1.0
    carried: tuple[Carried, ...] = ()
    averages_inside: bool = False

    def is_due(self, iteration: int) -> bool:
        """Whether the phase runs in this iteration."""
        return iteration % self.interval == 0


class StepGuard:
    """Counts the steps of a phase that were skipped because a loss or gradient was not finite, on the device.

    total: Skipped steps of the run. consecutive: Those since the phase's last good step.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros([], device=device)
        self.consecutive = torch.zeros([], device=device)

    def update(self, bad: Tensor) -> None:
        """bad: 1.0 if the step was skipped, else 0.0."""
        self.total += bad
        self.consecutive.add_(1).mul_(bad)


class TrainedNetwork:
    """A network with its flat gradient and its Adam.

    Args:
        module: The network; its parameters that require gradients are moved into a flat tensor.
        settings: Of Adam.
        scalars: Makes scheduled numbers follow the images seen.
        carried: Number of values that travel with the gradient, the loss among them.
        moving: The moving buffers of all networks, which travel with every gradient.
        channels_last: See `FlatParameters`.

    Attributes:
        buffer: What is averaged over the processes: gradient, carried values, moving buffers.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: AdamSettings,
        scalars: DeviceScalars,
        *,
        carried: int,
        moving: MovingBuffers,
        channels_last: bool = False,
    ) -> None:
        self.module, self.clip_norm = module, settings.clip_norm
        prefixes = [prefix for prefix, _ in settings.groups]
        self.parameters = FlatParameters(module, channels_last=channels_last, prefixes=prefixes)
        flat = self.parameters.flat
        sizes = [flat.numel(), round_up(carried), moving.pending.numel()]
        self.buffer = aligned_zeros(sum(sizes), flat.device)
        self.gradient, carried_space, self.moved = self.buffer.split(sizes)
        self.carried = carried_space[:carried]
        self.moving = moving
        self.gradient_views = self.parameters.views(self.gradient)
        factors = [1.0, *(factor for _, factor in settings.groups)]
        self.adam = Adam(flat, self.gradient, self.parameters.slices, factors, settings, scalars)

    def state(self) -> dict[str, Tensor]:
        """Parameters, buffers, Adam's moments per parameter and step counts, by name; aliases."""
        tensors = {f"module/{name}": value for name, value in self.module.state_dict().items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            views = self.parameters.views(getattr(self.adam, moment))
            tensors |= {f"{moment}/{name}": view for name, view in zip(self.parameters.names, views, strict=True)}
        steps = {f"step.{group}" if group else "step": step for group, step in enumerate(self.adam.steps)}
        return tensors | steps


class Phase:
    """A phase of a run.

    Args:
        spec: What it is.
        network: Whose parameters it trains.
        compute: From a round of images to the loss, the statistics and the gradients, which are `spec.loss_scale` times
            as long as those of the loss; see `with_gradients`.
    """

    def __init__(self, spec: PhaseSpec, network: TrainedNetwork, compute: Callable[[Any], ComputedPhase]) -> None:
        self.spec, self.network, self.compute = spec, network, compute
        self.name = spec.name
        self.guard = StepGuard(network.buffer.device)


def with_gradients(spec: PhaseSpec, parameters: Sequence[nn.Parameter]) -> Callable[[Any], ComputedPhase]:
    """A function from a round to (loss, statistics, gradients of gain * loss_scale * loss for the parameters)."""
    loss_function, factor = spec.loss, spec.gain * spec.loss_scale

    def compute(batch: Any) -> ComputedPhase:
        loss, statistics = loss_function(batch)
        inside = {name: value for name, value in statistics.items() if value.requires_grad}
        wanted = [*parameters, *inside.values()]
        gradients = torch.autograd.grad(loss * factor, wanted, allow_unused=True, materialize_grads=True)
        lengths = zip(inside, gradients[len(parameters) :], strict=True)
        statistics = statistics | {name: gradient.norm() / factor for name, gradient in lengths}
        return loss.detach(), statistics, gradients[: len(parameters)]

    return compute


def run_phase(phase: Phase, rounds: Sequence[Any], statistics: Statistics) -> None:
    """One step of a phase: its gradient over `rounds`, the average over the processes, the optimizer step.

    Args:
        rounds: The arguments of `phase.compute`, one per round of gradient accumulation.
    """
    accumulate(phase, rounds, statistics)
    average_over_processes_(phase.network.buffer)
    update(phase, statistics)


def accumulate(phase: Phase, rounds: Sequence[Any], statistics: Statistics) -> None:
    """Leave the mean gradient of `rounds` in the network's buffer, and behind it all that is averaged with it."""
    network, spec = phase.network, phase.spec
    hidden = {part.name for part in spec.carried if not part.is_shown}
    network.buffer.zero_()
    for batch in rounds:
        loss, values, gradients = phase.compute(batch)
        torch._foreach_add_(network.gradient_views, gradients, alpha=1 / (len(rounds) * spec.loss_scale))
        carried = loss.reshape(1)
        if spec.carried:
            carried = torch.cat([carried, *(values[part.name].flatten() for part in spec.carried)])
            values = {n: v for n, v in values.items() if n not in hidden}
        network.carried[: len(carried)].add_(carried, alpha=1 / len(rounds))
        if values:
            statistics.add(values)
    network.moved.copy_(network.moving.pending)


def update(phase: Phase, statistics: Statistics) -> None:
    """Take the optimizer step; skip it, on the device, where a gradient, the loss or a carried value is not finite.

    The gradient's length before any clipping becomes a statistic.
    """
    network = phase.network
    bad = (~torch.isfinite(network.buffer.sum())).float()
    length = network.gradient.norm()
    statistics.add({f"gradient/{phase.name}": length})
    if network.clip_norm is not None:
        network.gradient.mul_((network.clip_norm / (length + 1e-6)).clamp(max=1))
    network.adam.step(bad)
    phase.guard.update(bad)
    network.moving.commit(network.moved, bad)
    start = 1
    for part in phase.spec.carried:
        part.commit(network.carried[start : start + part.size], bad)
        start += part.size
