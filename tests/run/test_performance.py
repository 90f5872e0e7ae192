"""What perf.preset switches on, for whom, and how each thing falls back with a reason."""

import dataclasses

import pytest
import torch

from smartfast.config.parse import parse_config
from smartfast.config.schema import Config, PerfConfig
from smartfast.run import performance
from smartfast.run.performance import performance_line, with_arithmetic, with_preset

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))


def test_a_gpu_gets_everything_and_a_cpu_nothing() -> None:
    perf, lines = with_preset(PerfConfig(), GPU)
    assert (perf.compile, perf.cuda_graphs, perf.channels_last) == (True, True, True) and lines == []
    assert performance_line(perf, GPU) == ("performance: compiled, CUDA graphs, channels_last, fp32 (perf.preset auto)")
    perf, lines = with_preset(PerfConfig(), CPU)
    assert (perf.compile, perf.cuda_graphs, perf.channels_last) == (False, False, False) and lines == []
    assert performance_line(perf, CPU) == "performance: eager, channels_first, fp32 (perf.preset auto)"


def test_safe_is_eager_and_float32_in_every_preset() -> None:
    config = parse_config(["--config=cifar10", "--perf.preset=safe"])
    perf, _ = with_preset(with_arithmetic(config, GPU)[0].perf, GPU)
    assert (perf.compile, perf.cuda_graphs, perf.precision) == (False, False, "fp32")
    assert parse_config(["--config=cifar10"]).perf.precision == "fp16"


@pytest.mark.parametrize("preset", ["auto", "safe"])
def test_what_is_set_wins(preset: str) -> None:
    own = ["--perf.compile=max-autotune", "--perf.cuda_graphs=false", "--perf.precision=tf32"]
    config = parse_config(["--config=cifar10", f"--perf.preset={preset}", *own])
    perf, _ = with_preset(with_arithmetic(config, GPU)[0].perf, GPU)
    assert (perf.compile, perf.cuda_graphs, perf.precision) == ("max-autotune", False, "tf32")
    assert "compiled with max-autotune, no CUDA graphs" in performance_line(perf, GPU)
    on = with_preset(PerfConfig(preset=preset, compile=True, cuda_graphs=True), GPU)[0]
    assert on.compile is True and on.cuda_graphs is True


def test_arithmetic_falls_back_to_what_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def preferring(precision: str) -> Config:
        return Config(perf=PerfConfig(precision=precision, preferred=precision))

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    config, lines = with_arithmetic(preferring("bf16"), GPU)
    assert config.perf.precision == "fp16"
    assert lines == ["performance: fp16 in place of bf16, for this GPU has no bf16"]
    config, lines = with_arithmetic(preferring("bf16"), CPU)
    assert config.perf.precision == "fp32" and len(lines) == 2
    set_by_hand = dataclasses.replace(preferring("tf32"), perf=PerfConfig(precision="bf16", preferred="tf32"))
    assert with_arithmetic(set_by_hand, GPU) == (set_by_hand, [])


@pytest.mark.parametrize(("capability", "has_triton"), [((6, 1), True), ((9, 0), False)])
def test_no_compiler_leaves_phases_eager(
    capability: tuple[int, int], has_triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(performance.importlib.util, "find_spec", lambda _: has_triton or None)
    perf, lines = with_preset(PerfConfig(), GPU)
    assert perf.compile is False and perf.cuda_graphs is True
    assert len(lines) == 1 and lines[0].startswith("performance: phases run eagerly, for torch.compile needs ")
    assert with_preset(PerfConfig(compile=True), GPU)[1] == [], "who asks for it gets it, and its error"


def test_a_run_folder_keeps_what_was_set_and_its_arithmetic() -> None:
    config = parse_config(["--config=cifar10"])
    assert config.perf.compile is None and config.perf.precision == config.perf.preferred == "fp16"
    assert parse_config(["--perf.channels_last", "--perf.cuda_graphs"]).perf.cuda_graphs is True
