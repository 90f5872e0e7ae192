"""The memory that a run needs is known before anything is allocated."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from smartfast.config.families import StyleGan2Gan
from smartfast.config.parse import parse_config
from smartfast.config.schema import Config, RunConfig
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.run import memory
from smartfast.run.memory import Forecast, check_memory, forecast

DATA = SimpleNamespace(resolution=16, channels=1, num_classes=10)
CPU = torch.device("cpu")


@pytest.mark.parametrize("arguments", [[], ["--gan.family=denoiser", "--gan.block_out_channels=32,64"]])
def test_the_forecast_is_what_the_networks_keep(arguments: list[str]) -> None:
    """Held against real networks on real tensors, and linear in the batch but for tensors that have none."""
    config = parse_config([*arguments, "--data.resolution=16"])
    family = FAMILIES[config.gan.family](config, DATA)
    count = sum(p.numel() for m in family.modules.values() for p in m.parameters())
    averaged = sum(p.numel() for p in family.modules[family.averaged].parameters())
    small, large = forecast(config, DATA, 8), forecast(config, DATA, 16)
    assert small.weights_bytes == 4 * (4 * count + averaged)
    kept = 0
    for name, tensors in family.example_inputs().items():
        real = [None if x is None else torch.zeros(8, *x.shape[1:], dtype=x.dtype) for x in tensors]
        kept += memory._saved_bytes(family.modules[name], real)
    assert small.activations_bytes == pytest.approx(kept, rel=0.1)
    assert small.activations_bytes < large.activations_bytes <= 2 * small.activations_bytes


def test_imagenet64_in_fp32_does_not_fit_16_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grew to 22.9 GB on a CPU."""
    config = parse_config(["--config=imagenet64", "--perf.precision=fp32"])
    needed = forecast(config, SimpleNamespace(resolution=64, channels=3, num_classes=1000), 64)
    assert 18e9 < needed.total_bytes < 22.9e9
    monkeypatch.setattr(memory, "_memory_bytes", lambda device: (16 * 2**30, 8 * 2**30))
    with pytest.raises(
        UserError, match=r"^memory: at least 2\d\.\d GiB .*has 16.0 GiB: lower optim.batch_gpu \(now 64\)"
    ):
        check_memory(config, needed, 64, CPU, processes=1)
    dry = dataclasses.replace(config, run=RunConfig(dry_run=True))
    assert check_memory(dry, needed, 64, CPU, processes=1).endswith("8.0 GiB of it free: TOO LITTLE NOW")


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
