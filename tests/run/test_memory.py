"""The memory that a run needs is known before anything is allocated."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from smartfast.config.families import StyleGan2Gan
from smartfast.config.parse import parse_config
from smartfast.config.schema import Config, RunConfig
from smartfast.errors import UserError
from smartfast.run import memory
from smartfast.run.memory import Forecast, check_memory, forecast

DATA = SimpleNamespace(resolution=16, channels=1, num_classes=10)
CPU = torch.device("cpu")


@pytest.mark.parametrize("changes", [{}, {"gan.architecture_d": "orig"}, {"loss.path_length_interval": 0}])
def test_the_forecast_is_what_the_phases_keep(changes: dict, tiny_training) -> None:
    """Held against real networks on real tensors."""
    training = tiny_training(smart__frequency=0, **{name.replace(".", "__"): value for name, value in changes.items()})
    family, (batch,) = training.family, training.rounds
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in family.modules.items()}
    found = forecast(training.config, training.dataset, 8)
    assert found.weights_bytes == 4 * (4 * sum(count.values()) + count["g"])
    kept = max(memory._kept_bytes(spec, batch, family) for spec in training.specs)
    assert found.activations_bytes == pytest.approx(kept, rel=0.05)
    assert 1.8 < forecast(training.config, training.dataset, 16).activations_bytes / kept < 2.01


def test_imagenet64_in_fp32_does_not_fit_16_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grew to 22.9 GB on a CPU."""
    config = parse_config(["--config=imagenet64", "--perf.precision=fp32"])
    needed = forecast(config, SimpleNamespace(resolution=64, channels=3, num_classes=1000), 64)
    assert 12.9e9 < needed.total_bytes < 13.1e9
    monkeypatch.setattr(memory, "_memory_bytes", lambda device: (12 * 2**30, 8 * 2**30))
    with pytest.raises(UserError, match=r"^memory: at least 12.1 GiB .*has 12.0 GiB: lower optim.batch_gpu \(now 64\)"):
        check_memory(config, needed, 64, CPU, processes=1)
    dry = dataclasses.replace(config, run=RunConfig(dry_run=True))
    assert "only 8.0 GiB of it free: TOO LITTLE, as the peak is about 2 times" in check_memory(dry, needed, 64, CPU, 1)


@pytest.mark.parametrize(
    ("weights", "activations", "processes", "expected"),
    [(1, 1, 1, None), (1, 8, 1, "lower optim.batch_gpu"), (9, 0, 1, "gan.channel_base"), (1, 1, 4, "optim.batch_gpu")],
)
def test_processes_share_a_machine(weights, activations, processes, expected, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_memory_bytes", lambda device: (7 * 2**30, 7 * 2**30))
    needed = Forecast(weights * 2**30, activations * 2**30)
    if expected is None:
        line = check_memory(Config(gan=StyleGan2Gan()), needed, 4, CPU, processes)
        assert line.endswith("this machine has 7.0 GiB, 7.0 GiB of it free")
        return
    with pytest.raises(UserError, match=expected):
        check_memory(Config(gan=StyleGan2Gan()), needed, 4, CPU, processes)
