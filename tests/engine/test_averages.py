"""The running average of a network follows its half-life and shares what it does not average."""

import pytest
import torch
from torch import nn

from smartfast.engine.adam import AdamSettings
from smartfast.engine.averages import AveragedNetwork, half_life_step
from smartfast.engine.flat import MovingBuffers
from smartfast.engine.phase import TrainedNetwork
from smartfast.engine.schedules import DeviceScalars

CPU = torch.device("cpu")


class Norm(nn.BatchNorm1d):
    """A batch norm whose mean the average follows and whose variance it shares."""

    averaged_buffers = ("running_mean",)


@pytest.fixture
def trained() -> TrainedNetwork:
    module = nn.Sequential(nn.Linear(2, 3), Norm(3), nn.Linear(3, 1))
    module[2].bias.requires_grad_(False)
    settings = AdamSettings(lr=lambda images: 0.1, betas=(0.9, 0.99))
    moving = MovingBuffers({"n": module}, CPU)
    return TrainedNetwork(module, settings, DeviceScalars(CPU), carried=1, moving=moving)


def test_parameters_and_named_buffers_follow_and_the_rest_is_shared(trained: TrainedNetwork) -> None:
    average = AveragedNetwork(trained, torch.tensor(0.5))
    start = {name: value.clone() for name, value in average.module.state_dict().items()}
    with torch.no_grad():
        for value in (*trained.module.parameters(), trained.module[1].running_mean, trained.module[1].running_var):
            value += 1
    average.move()
    moved = {name: (value - start[name]).flatten()[0].item() for name, value in average.module.state_dict().items()}
    assert moved == pytest.approx(
        {
            "0.weight": 0.5,
            "0.bias": 0.5,
            "1.weight": 0.5,
            "1.bias": 0.5,
            "1.running_mean": 0.5,
            "1.running_var": 1.0,
            "1.num_batches_tracked": 0.0,
            "2.weight": 0.5,
            "2.bias": 1.0,
        }
    )
    shared = {"1.running_var", "1.num_batches_tracked", "2.bias"}
    assert average.state().keys() == start.keys() - shared
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert not average.module.training and trained.module.training


def test_the_step_reaches_half_the_way_after_the_half_life() -> None:
    assert half_life_step(0, batch=100, half_life_kimg=0.1, rampup=None) == pytest.approx(0.5)
    remaining = (1 - half_life_step(0, batch=25, half_life_kimg=0.1, rampup=None)) ** 4
    assert remaining == pytest.approx(0.5)
    assert half_life_step(2000, batch=100, half_life_kimg=100.0, rampup=0.05) == pytest.approx(0.5)
    assert half_life_step(0, batch=100, half_life_kimg=100.0, rampup=0.05) == 1
