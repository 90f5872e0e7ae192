"""Parameters as views of one tensor: every one starts where a wide load may."""

import pytest
import torch
from torch import nn

from smartfast.config.schema import OptimConfig
from smartfast.engine.phase import TrainedNetwork


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_parameter_gradient_and_moment_starts_at_128_bytes(channels_last: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.PReLU(), nn.Flatten(), nn.Linear(7, 1))
    network = TrainedNetwork(
        module, lr=0.1, optim=OptimConfig(), lazy_interval=None, carried=3, channels_last=channels_last
    )
    adam = network.optimizer.state[network.weights]
    moments = [view for moment in ("exp_avg", "exp_avg_sq") for view in network.parameters.views(adam[moment])]
    views = [*module.parameters(), *network.gradient_views, *moments]
    assert [v.data_ptr() % 128 for v in views] == [0] * len(views)
    assert torch.equal(network.carried, torch.zeros(3))
