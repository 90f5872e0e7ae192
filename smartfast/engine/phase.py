"""How a phase runs: gradients, accumulation, averaging over processes, optimizer step, averaged generator.

The parameters of a network are views of one flat tensor and so are their gradients, so zeroing,
averaging over processes, the check for non-finite values, Adam and the running average are one operation
each. Nothing here reads a value back from the device, and everything that lasts stays in the same memory, so that
whole steps can be captured in CUDA graphs.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from smartfast.config.schema import OptimConfig
from smartfast.core.distributed import average_over_processes_
from smartfast.families.stylegan2_phases import PhaseResult
from smartfast.networks.stylegan2 import Generator

ComputedPhase = tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]
Network = TypeVar("Network", bound=nn.Module)


class FlatParameters:
    """Moves the parameters of a module into one flat tensor, of which they become views.

    Args:
        module: Changed in place; its parameters keep their names, shapes and values.
        channels_last: Lay convolution weights out in NHWC order.
    """

    def __init__(self, module: nn.Module, *, channels_last: bool = False) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self.channels_last = channels_last
        self.flat = torch.empty(sum(p.numel() for p in self.parameters), device=self.parameters[0].device)
        for parameter, view in zip(self.parameters, self.views(self.flat), strict=True):
            view.copy_(parameter.data)
            parameter.data = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat` [total] with the shapes and memory order of the parameters."""
        views, start = [], 0
        for parameter in self.parameters:
            piece = flat[start : start + parameter.numel()]
            start += parameter.numel()
            if self.channels_last and parameter.ndim == 4:
                o, i, h, w = parameter.shape
                views.append(piece.view(o, h, w, i).permute(0, 3, 1, 2))
            else:
                views.append(piece.view(parameter.shape))
        return views


class StepGuard:
    """Counts a network's optimizer steps that were skipped because a loss or gradient was not finite, on the device.

    total: Skipped steps of the run. consecutive: Those since the last good step.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros([], device=device)
        self.consecutive = torch.zeros([], device=device)

    def update(self, bad: Tensor) -> None:
        """bad: 1.0 if the step was skipped, else 0.0."""
        self.total += bad
        self.consecutive.add_(1).mul_(bad)


class TrainedNetwork(Generic[Network]):
    """A network with its flat gradient and its Adam.

    Args:
        module: The network; its parameters are moved into a flat tensor.
        lr: Adam's learning rate.
        optim: Betas and epsilon.
        lazy_interval: Steps between two runs of the network's lazy regularization, None = it has none. Adam's
            learning rate and betas are corrected by interval / (interval + 1) as in StyleGAN2 (appendix B).
        carried: Number of values that travel with the gradient through the average over processes.
        channels_last: See `FlatParameters`.
    """

    def __init__(
        self,
        module: Network,
        *,
        lr: float,
        optim: OptimConfig,
        lazy_interval: int | None,
        carried: int,
        channels_last: bool = False,
    ) -> None:
        self.module = module
        self.parameters = FlatParameters(module, channels_last=channels_last)
        flat = self.parameters.flat
        self.buffer = torch.zeros(flat.numel() + carried, device=flat.device)
        self.gradient, self.carried = self.buffer[: flat.numel()], self.buffer[flat.numel() :]
        self.gradient_views = self.parameters.views(self.gradient)
        self.weights = nn.Parameter(flat)
        self.weights.grad = self.gradient
        ratio = 1.0 if lazy_interval is None else lazy_interval / (lazy_interval + 1)
        self.optimizer = torch.optim.Adam(
            [self.weights],
            lr=lr * ratio,
            betas=(optim.betas[0] ** ratio, optim.betas[1] ** ratio),
            eps=optim.eps,
            fused=True,
            capturable=flat.is_cuda,
        )
        # Fused Adam skips the step on the device where found_inf is 1; the attributes are those that GradScaler sets.
        self.found_inf = torch.zeros([], device=flat.device)
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._create_optimizer_state()
        self.guard = StepGuard(flat.device)

    def _create_optimizer_state(self) -> None:
        self.found_inf.fill_(1.0)
        with warnings.catch_warnings():  # Adam warns of steps outside CUDA graphs, which cost a fused Adam nothing
            warnings.filterwarnings("ignore", message=".*capturable.*")
            self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Parameters, buffers, Adam's moments per parameter and step count, skipped steps, by name; aliases."""
        adam = self.optimizer.state[self.weights]
        names = [name for name, _ in self.module.named_parameters()]
        tensors = {f"module/{name}": value for name, value in self.module.state_dict().items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            views = self.parameters.views(adam[moment])
            tensors |= {f"{moment}/{name}": view for name, view in zip(names, views, strict=True)}
        counts = {"step": adam["step"], "skipped": self.guard.total, "skipped_in_a_row": self.guard.consecutive}
        return tensors | counts


@dataclass
class Phase:
    """One phase of the training.

    name: For the status line. network: Whose parameters it trains. compute: From a round of images to the loss, the
    statistics and the gradients. carried: Name of a statistic that is averaged over processes and rounds with the
    gradient. after: Receives that average, flat, at the start of the space for it, and a scalar that is 1.0 if the step
    was skipped, else 0.0.
    """

    name: str
    network: TrainedNetwork
    compute: Callable[[Any], ComputedPhase]
    carried: str | None = None
    after: Callable[[Tensor, Tensor], None] | None = None


def with_gradients(
    loss_function: Callable[[Any], PhaseResult], network: TrainedNetwork, *, gain: float = 1.0
) -> Callable[[Any], ComputedPhase]:
    """A function from a round to (loss, statistics, gradients of gain * loss for the network's parameters)."""
    parameters = network.parameters.parameters

    def compute(batch: Any) -> ComputedPhase:
        loss, statistics = loss_function(batch)
        gradients = torch.autograd.grad(loss * gain, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), statistics, gradients

    return compute


class Statistics:
    """Sums of statistics on the device, read once per tick.

    The sums stay in the same memory from the first addition on, so that a captured CUDA graph can add to them.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add scalars; a name's mean is taken over all additions since the last `read`."""
        row = torch.stack([value.float() for value in values.values()])
        row = torch.cat([row, torch.ones_like(row[:1])])
        names = tuple(values)
        if names not in self._sums:
            self._sums[names] = torch.zeros_like(row)
        self._sums[names] += row

    def read(self) -> dict[str, float]:
        """Mean of each name over additions and processes; one transfer from the device; starts anew."""
        if not self._sums:
            return {}
        sums = average_over_processes_(torch.cat(list(self._sums.values()))).tolist()
        totals: dict[str, float] = defaultdict(float)
        counts: dict[str, float] = defaultdict(float)
        for names, total in self._sums.items():
            *row, count = sums[: len(names) + 1]
            sums = sums[len(names) + 1 :]
            total.zero_()
            for name, value in zip(names, row, strict=True):
                totals[name] += value
                counts[name] += count
        return {name: totals[name] / counts[name] for name in sorted(totals) if counts[name]}


def run_phase(phase: Phase, rounds: Sequence[Any], statistics: Statistics) -> None:
    """One step of a phase: its gradient over `rounds`, the average over the processes, the optimizer step.

    Args:
        rounds: The arguments of `phase.compute`, one per round of gradient accumulation.
    """
    accumulate(phase, rounds, statistics)
    average_over_processes_(phase.network.buffer)
    update(phase)


def accumulate(phase: Phase, rounds: Sequence[Any], statistics: Statistics) -> None:
    """Leave the mean gradient of `rounds` in the network's buffer, and behind it the loss and the carried values."""
    network = phase.network
    network.buffer.zero_()
    for batch in rounds:
        loss, values, gradients = phase.compute(batch)
        torch._foreach_add_(network.gradient_views, gradients, alpha=1 / len(rounds))
        carried = loss.reshape(1)
        if phase.carried is not None:
            carried = torch.cat([carried, values.pop(phase.carried).flatten()])
        network.carried[: len(carried)].add_(carried, alpha=1 / len(rounds))
        statistics.add(values)


def update(phase: Phase) -> None:
    """Take the optimizer step; skip it, on the device, where a gradient, the loss or a carried value is not finite."""
    network = phase.network
    bad = (~torch.isfinite(network.buffer.sum())).float()
    network.found_inf.copy_(bad)
    network.optimizer.step()
    network.guard.update(bad)
    if phase.after is not None:
        phase.after(network.carried[1:], bad)


class AveragedGenerator:
    """Running average of a generator's weights (EMA) with a ramp-up of its half-life (stylegan2-ada).

    Buffers (the mean w, the constant noise) are shared with the trained generator.
    """

    def __init__(self, trained: TrainedNetwork[Generator], *, half_life_kimg: float, rampup: float | None) -> None:
        self.source = trained
        self.module = copy.deepcopy(trained.module).eval().requires_grad_(False)
        self.parameters = FlatParameters(self.module, channels_last=trained.parameters.channels_last)
        for copied, original in zip(self.module.modules(), trained.module.modules(), strict=True):
            copied._buffers.update(original._buffers)
        self.half_life_kimg, self.rampup = half_life_kimg, rampup
        self.step_size = torch.zeros([], device=self.parameters.flat.device)

    def set_decay(self, *, images: int, batch: int) -> None:
        """Set the step of `move` for an iteration of `batch` images that began at image `images`."""
        half_life = self.half_life_kimg * 1000
        if self.rampup is not None:
            half_life = min(half_life, images * self.rampup)
        self.step_size.fill_(1 - 0.5 ** (batch / max(half_life, 1e-8)))

    def move(self) -> None:
        """Move toward the trained weights."""
        self.parameters.flat.lerp_(self.source.parameters.flat, self.step_size)
