"""Buffers that move in a forward pass: a skipped step leaves them as they were, a good one moves them once."""

import functools

import torch
from torch import nn

from smartfast.engine.adam import AdamSettings
from smartfast.engine.flat import MovingBuffers
from smartfast.engine.phase import Phase, PhaseSpec, TrainedNetwork, run_phase, with_gradients
from smartfast.engine.schedules import DeviceScalars
from smartfast.engine.statistics import Statistics

CPU = torch.device("cpu")


def loss(module: nn.Module, x: torch.Tensor):
    value = module(x).square().mean()
    return value, {"loss": value.detach()}


def make(module: nn.Module) -> Phase:
    settings = AdamSettings(lr=lambda images: 0.1, betas=(0.9, 0.99))
    moving = MovingBuffers({"n": module}, CPU)
    network = TrainedNetwork(module, settings, DeviceScalars(CPU), carried=1, moving=moving)
    spec = PhaseSpec("fit", "n", functools.partial(loss, module))
    return Phase(spec, network, with_gradients(spec, network.parameters.parameters))


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def test_a_skipped_step_leaves_batch_norms_statistics_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    phase, x = make(module), torch.randn(6, 3)
    run_phase(phase, [x], Statistics())
    before = buffers(module)
    assert before["1.running_mean"].abs().min() > 0
    run_phase(phase, [torch.full_like(x, torch.nan)], Statistics())
    assert [name for name, value in module.named_buffers() if not torch.equal(value, before[name])] == []
    assert phase.guard.total == 1


def test_good_steps_move_them_once_per_forward_pass() -> None:
    module, plain = (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)) for _ in range(2))
    phase = make(module)
    rounds = [torch.randn(6, 3) for _ in range(3)]
    run_phase(phase, rounds, Statistics())
    for x in rounds:
        plain(x)
    for name, value in plain.named_buffers():
        assert torch.allclose(module.get_buffer(name), value, atol=1e-6), name
    assert module[0].num_batches_tracked == 3


class Counter(nn.Module):
    """A network with a buffer of its own kind, which every forward pass adds to, and one that stays."""

    moving_buffers = ("passes",)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("passes", torch.zeros(2))
        self.register_buffer("constant", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.linear(x) * self.constant.sum()


def test_loaded_buffers_are_live_and_what_a_process_average_says_is_taken() -> None:
    module = Counter()
    phase = make(module)
    assert phase.network.moving.pending.numel() == 32 and module.passes.data_ptr() % 128 == 0
    module.load_state_dict(module.state_dict() | {"passes": torch.tensor([5.0, 7.0])})
    phase.network.moving.accept()
    run_phase(phase, [torch.full((2, 3), torch.inf)], Statistics())
    assert module.passes.tolist() == [5, 7]
    module.passes.add_(1)  # as a forward pass of this process does
    average = phase.network.moving.pending + 0.5  # and another process's moved further
    phase.network.moving.commit(average, torch.tensor(0.0))
    assert module.passes.tolist() == [6.5, 8.5] and module.constant.tolist() == [1, 1]


class Scaled(nn.Module):
    """A layer that moves its buffer, and whose gradient needs the buffer after that."""

    moving_buffers = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.scale.mul_(2)
        return x * self.weight * self.scale


def test_a_layer_may_save_its_buffer_for_the_gradient_though_others_move_theirs_after_it() -> None:
    module = nn.Sequential(Scaled(), Scaled())
    phase = make(module)
    _, _, gradients = phase.compute(torch.ones(1, 3))
    for gradient in gradients:
        assert torch.allclose(gradient, torch.full((3,), 16 * 16 * 2 / 3))
