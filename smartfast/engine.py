"""How a phase runs: gradients, accumulation, averaging over processes, optimizer step, averaged generator.

The parameters of a network are views of one flat tensor and so are their gradients, so zeroing,
averaging over processes, the check for non-finite values, Adam and the running average are one operation
each. Nothing here reads a value back from the device.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smartfast.config import OptimConfig
from smartfast.phases import PhaseResult

ComputedPhase = tuple[Tensor, dict[str, Tensor], Sequence[Tensor]]


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


class TrainedNetwork:
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
        module: nn.Module,
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
        )
        # Fused Adam skips the step on the device where found_inf is 1; the attributes are those that GradScaler sets.
        self.optimizer.grad_scale = None
        self.optimizer.found_inf = torch.zeros([], device=flat.device)
        self._create_optimizer_state()
        self.guard = StepGuard(flat.device)

    def _create_optimizer_state(self) -> None:
        self.optimizer.found_inf.fill_(1.0)
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

    name: For the status line. network: Whose parameters it trains. compute: From a batch to the loss, the statistics
    and the gradients. carried: Names of statistics that are averaged over processes and rounds with the gradient.
    """

    name: str
    network: TrainedNetwork
    compute: Callable[..., ComputedPhase]
    carried: tuple[str, ...] = ()


def with_gradients(
    loss_function: Callable[..., PhaseResult], network: TrainedNetwork, *, gain: float = 1.0, compile: bool = False
) -> Callable[..., ComputedPhase]:
    """A function from a batch to (loss, statistics, gradients of gain * loss for the network's parameters).

    With `compile`, loss, backward and second-order terms are one graph (torch.compile with fullgraph=True).
    """
    parameters = network.parameters.parameters

    def compute(*batch) -> ComputedPhase:
        loss, statistics = loss_function(*batch)
        gradients = torch.autograd.grad(loss * gain, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), statistics, gradients

    return compile_phase(compute) if compile else compute


def compile_phase(compute: Callable[..., ComputedPhase]) -> Callable[..., ComputedPhase]:
    """torch.compile as one graph; stays eager, and says so, where torch cannot trace autograd.grad."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        warnings.warn(
            f"perf.compile: torch {torch.__version__} cannot trace torch.autograd.grad; phases run eagerly",
            stacklevel=2,
        )
        return compute
    torch._dynamo.config.trace_autograd_ops = True
    return torch.compile(compute, fullgraph=True)


def average_over_processes_(tensor: Tensor) -> Tensor:
    """Mean over the processes, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean over the processes, differentiable once, in eager mode."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(value) / dist.get_world_size()
    return value


class Statistics:
    """Sums of statistics on the device, read once per tick."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add scalars; a name's mean is taken over all additions since the last `read`."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Mean of each name over additions and processes; one transfer from the device; starts anew."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = average_over_processes_(torch.stack([self._sums[n].float() / self._counts[n] for n in names]))
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))


def run_phase(phase: Phase, rounds: Sequence[tuple], statistics: Statistics) -> tuple[dict[str, Tensor], Tensor]:
    """Accumulate a phase's gradient over `rounds`, average it over the processes and take the optimizer step.

    Args:
        rounds: One argument tuple of `phase.compute` per round of gradient accumulation.

    Returns:
        The averages of the statistics in `phase.carried`, and a scalar that is 1.0 if the step was skipped
        because a gradient, the loss or a carried statistic was not finite, else 0.0.
    """
    network = phase.network
    network.buffer.zero_()
    for batch in rounds:
        loss, values, gradients = phase.compute(*batch)
        torch._foreach_add_(network.gradient_views, gradients, alpha=1 / len(rounds))
        carried = [loss, *(values.pop(name) for name in phase.carried)]
        sizes = [value.numel() for value in carried]
        network.carried[: sum(sizes)].add_(torch.cat([v.flatten() for v in carried]), alpha=1 / len(rounds))
        statistics.add(values)
    average_over_processes_(network.buffer)
    bad = (~torch.isfinite(network.buffer.sum())).float()
    network.optimizer.found_inf.copy_(bad)
    network.optimizer.step()
    network.guard.update(bad)
    _, *averages = network.carried[: sum(sizes)].split(sizes)
    shaped = [average.view(value.shape) for average, value in zip(averages, carried[1:], strict=True)]
    return dict(zip(phase.carried, shaped, strict=True)), bad


class AveragedGenerator:
    """Running average of a generator's weights (EMA) with a ramp-up of its half-life (stylegan2-ada).

    Buffers (the mean w, the constant noise) are shared with the trained generator.
    """

    def __init__(self, trained: TrainedNetwork, *, half_life_kimg: float, rampup: float | None) -> None:
        self.source = trained
        self.module = copy.deepcopy(trained.module).eval().requires_grad_(False)
        self.parameters = FlatParameters(self.module, channels_last=trained.parameters.channels_last)
        for copied, original in zip(self.module.modules(), trained.module.modules(), strict=True):
            copied._buffers.update(original._buffers)
        self.half_life_kimg, self.rampup = half_life_kimg, rampup

    def update(self, *, images: int, batch: int) -> None:
        """Move toward the trained weights after an iteration of `batch` images that began at image `images`."""
        half_life = self.half_life_kimg * 1000
        if self.rampup is not None:
            half_life = min(half_life, images * self.rampup)
        decay = 0.5 ** (batch / max(half_life, 1e-8))
        self.parameters.flat.lerp_(self.source.parameters.flat, 1 - decay)
