"""Gradients, flat parameters, Adam with lazy correction, skipped steps, the averaged generator."""

import copy
import functools

import pytest
import torch
from torch import nn

from smartfast.engine.adam import AdamSettings
from smartfast.engine.flat import FlatParameters, MovingBuffers
from smartfast.engine.phase import Carried, Phase, PhaseSpec, TrainedNetwork, run_phase, with_gradients
from smartfast.engine.schedules import DeviceScalars
from smartfast.engine.statistics import Statistics

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 1))


def trained(module: nn.Module, *, carried: int = 1, **options) -> TrainedNetwork:
    settings = AdamSettings(lr=lambda images: 0.01, betas=(0.5, 0.9), eps=1e-8, **options)
    return TrainedNetwork(
        module, settings, DeviceScalars(CPU), carried=carried, moving=MovingBuffers({"n": module}, CPU)
    )


def squared_error(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]):
    x, y = batch
    loss = (module(x) - y).square().mean()
    return loss, {"loss": loss.detach(), "mean": x.mean(dim=0).flatten()[:3]}


class Fit(Phase):
    """A phase that keeps what it reports after a step."""

    def __init__(self, network: TrainedNetwork, **options) -> None:
        loss = functools.partial(squared_error, network.module)
        spec = PhaseSpec("fit", "n", loss, carried=(Carried("mean", 3, self.keep),), **options)
        super().__init__(spec, network, with_gradients(spec, network.parameters.parameters))

    def keep(self, mean: torch.Tensor, bad: torch.Tensor) -> None:
        self.mean, self.bad = mean.clone(), bad


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 2, 4, 4), torch.randn(n, 1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_parameters_become_views_of_one_tensor(channels_last: bool) -> None:
    module = network()
    before = copy.deepcopy(module)
    flat = FlatParameters(module, channels_last=channels_last)
    x, _ = batch()
    assert torch.allclose(module(x), before(x), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before.parameters(), strict=True))
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    flat.flat.zero_()
    assert all(p.abs().max() == 0 for p in module.parameters())


@pytest.mark.parametrize("lazy_interval", [None, 4])
def test_steps_equal_a_plain_adam(lazy_interval: int | None) -> None:
    ours, plain = trained(network(), lazy_interval=lazy_interval, carried=4), network()
    ratio = 1.0 if lazy_interval is None else lazy_interval / (lazy_interval + 1)
    adam = torch.optim.Adam(plain.parameters(), lr=0.01 * ratio, betas=(0.5**ratio, 0.9**ratio), eps=1e-8)
    phase, statistics = Fit(ours, gain=3.0), Statistics()
    for _ in range(5):
        x, y = batch()
        run_phase(phase, [(x, y)], statistics)
        assert phase.bad == 0 and torch.allclose(phase.mean, x.mean(dim=0).flatten()[:3])
        adam.zero_grad()
        (squared_error(plain, (x, y))[0] * 3).backward()
        adam.step()
    for a, b in zip(ours.module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert ours.state()["step"] == 5


def test_a_statistic_in_the_graph_is_the_length_of_the_gradient_there_and_changes_nothing() -> None:
    """Of the mean of (Wx + b - y)^2 the gradient for the output is 2 (Wx + b - y) / N, before any clipping."""

    def loss_of(module: nn.Module, is_asked: bool, batch: tuple[torch.Tensor, torch.Tensor]):
        x, y = batch
        output = module(x)
        loss = (output - y).square().mean()
        return loss, {"loss": loss.detach(), **({"at the output": output} if is_asked else {})}

    found = []
    x, y = batch()
    for is_asked in (False, True):
        ours, statistics = trained(network(), clip_norm=1e-3), Statistics()
        expected = 2 * (ours.module(x) - y).detach().norm() / y.numel()
        spec = PhaseSpec("fit", "n", functools.partial(loss_of, ours.module, is_asked), gain=4.0, loss_scale=8.0)
        run_phase(Phase(spec, ours, with_gradients(spec, ours.parameters.parameters)), [(x, y)], statistics)
        found.append((statistics.read(), [value.clone() for value in ours.state().values()]))
    (without, state), (asked, same_state) = found
    assert all(torch.equal(a, b) for a, b in zip(state, same_state, strict=True))
    assert asked.pop("at the output") == pytest.approx(float(expected), rel=1e-5)
    assert asked == without and asked["gradient/fit"] > 1e-2


def test_accumulated_rounds_equal_one_batch() -> None:
    x, y = batch(8)
    results = []
    for rounds in ([(x, y)], [(x[:4], y[:4]), (x[4:], y[4:])]):
        ours = trained(network(), carried=4)
        phase = Fit(ours)
        run_phase(phase, rounds, Statistics())
        results.append((ours.gradient.clone(), phase.mean))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_gradients_skip_the_step_and_are_counted(poison: float) -> None:
    ours = trained(network(), carried=4)
    phase, statistics = Fit(ours), Statistics()
    guard = phase.guard
    x, y = batch()
    run_phase(phase, [(x, y)], statistics)
    before = {name: value.clone() for name, value in ours.state().items() if "skipped" not in name}
    bad_x = x.clone()
    bad_x[0, 0, 0, 0] = poison
    for count in (1, 2):
        run_phase(phase, [(bad_x, y)], statistics)
        assert (phase.bad, guard.total, guard.consecutive) == (1, count, count)
    for name, value in before.items():
        assert torch.equal(value, ours.state()[name]), name
    run_phase(phase, [(x, y)], statistics)
    assert (guard.total, guard.consecutive) == (2, 0)
    assert not torch.equal(ours.module[0].weight, before["module/0.weight"])
