"""Fixtures that several test files share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("SMARTFAST_TEST_DEVICE", "cpu")
"""Where the tests of ops and networks put tensors: cpu, with Triton's kernels in its interpreter, or cuda."""

if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton

from smartfast.checkpoint import save_checkpoint  # noqa: E402
from smartfast.models import Generator  # noqa: E402


def pytest_configure() -> None:
    if DEVICE != "cpu":
        torch.set_default_device(DEVICE)
        torch.backends.cudnn.allow_tf32 = False  # comparisons with float64 mean float32


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run folder with one checkpoint of a tiny random generator; arguments: c_dim and channels."""
    made: dict[tuple[int, int], Path] = {}

    def make(c_dim: int = 0, channels: int = 1) -> Path:
        if (c_dim, channels) not in made:
            made[c_dim, channels] = _write_run(tmp_path_factory.mktemp("run"), c_dim, channels)
        return made[c_dim, channels]

    return make


def _write_run(run_dir: Path, c_dim: int, channels: int) -> Path:
    options = dict(
        z_dim=8, c_dim=c_dim, w_dim=8, resolution=8, channels=channels, mapping_layers=2, channel_base=64, channel_max=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(**options)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                torch.nn.init.constant_(parameter, 0.5)
        torch.nn.init.normal_(generator.mapping.w_avg)
    save_checkpoint(
        run_dir,
        images=2000,
        state={"empty": torch.zeros(1)},
        generator=generator,
        generator_options=options,
        info={"time_sec": 1.0, "device": "cpu", "versions": {"torch": torch.__version__}},
        keep=1,
    )
    return run_dir
