"""Buffers that move in a forward pass: a skipped step leaves them as they were, a good one moves them once."""

import functools

import torch
from torch import nn

from smartfast.config.schema import OptimConfig
from smartfast.engine.phase import Phase, Statistics, TrainedNetwork, run_phase, with_gradients


def loss(module: nn.Module, x: torch.Tensor):
    value = module(x).square().mean()
    return value, {"loss": value.detach()}


def test_a_skipped_step_leaves_batch_norms_statistics_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network = TrainedNetwork(module, lr=0.1, optim=OptimConfig(), lazy_interval=None, carried=1)
    phase = Phase("fit", network, with_gradients(functools.partial(loss, module), network))
    x = torch.randn(6, 3)
    run_phase(phase, [x], Statistics())
    before = {name: value.clone() for name, value in module.named_buffers()}
    assert before["1.running_mean"].abs().min() > 0
    run_phase(phase, [torch.full_like(x, torch.nan)], Statistics())
    assert [name for name, value in module.named_buffers() if not torch.equal(value, before[name])] == []
