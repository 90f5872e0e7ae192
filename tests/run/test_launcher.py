"""What `accelerate launch` is asked for is done or refused, never dropped."""

import pytest

from smartfast.cli import main
from smartfast.config.schema import Config, PerfConfig
from smartfast.errors import UserError
from smartfast.run.launcher import check_launcher


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("MIXED_PRECISION", "bf16", "--mixed_precision is bf16, expected no: use --perf.precision=bf16 (now fp32)"),
        ("MIXED_PRECISION", "fp16", "--mixed_precision is fp16, expected no: use --perf.precision=fp16 (now fp32)"),
        ("MIXED_PRECISION", "fp8", "--mixed_precision is fp8, expected no: use perf.precision fp16 or bf16 (now fp32)"),
        ("DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend is inductor, expected no: use perf.compile instead"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps is 4, expected 1: use optim.batch_gpu"),
        ("USE_DEEPSPEED", "true", "--use_deepspeed is true, expected false: use plain `accelerate launch` instead"),
        ("USE_FSDP", "true", "--use_fsdp is true, expected false"),
        ("USE_MEGATRON_LM", "true", "--use_megatron_lm is true, expected false"),
    ],
)
def test_what_is_not_done_is_refused(variable, value, line, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    assert main(["train", f"--run.dir={tmp_path / 'run'}"]) == 2
    assert f"smartfast: error: accelerate launch {line}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "True"},
        {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
    ],
)
def test_defaults_and_what_agrees_go_through(environment: dict[str, str]) -> None:
    check_launcher(Config(perf=PerfConfig(precision="bf16")), environment)


def test_fp8_is_never_agreed_on() -> None:
    with pytest.raises(UserError, match="--mixed_precision is fp8"):
        check_launcher(Config(), {"ACCELERATE_MIXED_PRECISION": "fp8"})
