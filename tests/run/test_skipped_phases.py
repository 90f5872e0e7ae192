"""A phase that is always bad ends the run by its name, whatever the other phases of its network do."""

from pathlib import Path

import pytest
import torch

from smartfast.cli import main
from smartfast.families.stylegan2.phases import StyleGan2Phases

OPTIONS = {
    "data.resolution": 8,
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.mbstd_group": 4,
    "loss.path_length_weight": 2,
    "loss.path_length_interval": 2,
    "loss.r1_interval": 2,
    "optim.batch": 8,
    "smart.scorer": "digits",
    "smart.downscale": 1,
    "smart.frequency": 2,
    "smart.self_check": "false",
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": 0.008,
    "run.kimg": 1,
    "run.max_bad_steps": 4,
    "perf.cpu_threads": 1,
}


@pytest.mark.parametrize("phase", ["g_main", "g_score", "g_path", "d_main", "d_r1"])
def test_a_phase_that_is_always_bad_ends_the_run_by_name(
    phase: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_function = getattr(StyleGan2Phases, phase)

    def poisoned(self: StyleGan2Phases, batch: object) -> tuple:
        loss, statistics = loss_function(self, batch)
        return loss * float("nan"), statistics

    poisoned.__name__ = phase
    monkeypatch.setattr(StyleGan2Phases, phase, poisoned)
    settings = OPTIONS | {"run.dir": tmp_path, "data.resolution": 16}
    torch.manual_seed(0)
    assert main(["train", *[f"--{name}={value}" for name, value in settings.items()]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the last 4 steps of {phase} " in error and "run.max_bad_steps" in error
