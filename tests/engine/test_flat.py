"""Parameters as views of one tensor: every one starts where a wide load may."""

import pytest
import torch
from torch import nn

from smartfast.engine.adam import AdamSettings
from smartfast.engine.flat import FlatParameters, MovingBuffers
from smartfast.engine.phase import TrainedNetwork
from smartfast.engine.schedules import DeviceScalars

CPU = torch.device("cpu")
ADAM = AdamSettings(lr=lambda images: 0.1, betas=(0.9, 0.99))


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_parameter_gradient_and_moment_starts_at_128_bytes(channels_last: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.PReLU(), nn.Flatten(), nn.Linear(7, 1))
    moving, scalars = MovingBuffers({"n": module}, CPU), DeviceScalars(CPU)
    network = TrainedNetwork(module, ADAM, scalars, carried=3, moving=moving, channels_last=channels_last)
    moments = [v for m in (network.adam.exp_avg, network.adam.exp_avg_sq) for v in network.parameters.views(m)]
    views = [*module.parameters(), *network.gradient_views, *moments]
    assert [v.data_ptr() % 128 for v in views] == [0] * len(views)
    assert torch.equal(network.carried, torch.zeros(3))


def test_frozen_parameters_stay_where_they_are_and_prefixes_come_last() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 5), "c": nn.Linear(5, 1)})
    module["b"].weight.requires_grad_(False)
    before, address = module["b"].weight.clone(), module["b"].weight.data_ptr()
    parameters = FlatParameters(module, prefixes=["a."])
    assert parameters.names == ["b.bias", "c.weight", "c.bias", "a.weight", "a.bias"]
    first, second = (parameters.flat[part] for part in parameters.slices)
    assert second[:6].tolist() == module["a"].weight.flatten().tolist()
    first.zero_()
    assert module["c"].weight.abs().max() == 0 and module["a"].weight.abs().max() > 0
    assert torch.equal(module["b"].weight, before) and module["b"].weight.data_ptr() == address
