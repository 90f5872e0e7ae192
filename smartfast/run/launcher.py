"""What `accelerate launch` was asked for and this trainer does otherwise: one line that names the setting for it."""

from collections.abc import Mapping
from typing import NamedTuple

from smartfast.config.schema import Config
from smartfast.errors import UserError


class _Request(NamedTuple):
    option: str
    off: str
    instead: str


_REQUESTS = {
    "ACCELERATE_DYNAMO_BACKEND": _Request("--dynamo_backend", "no", "perf.compile"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": _Request("--gradient_accumulation_steps", "1", "optim.batch_gpu"),
    "ACCELERATE_USE_DEEPSPEED": _Request("--use_deepspeed", "false", "plain `accelerate launch`"),
    "ACCELERATE_USE_FSDP": _Request("--use_fsdp", "false", "plain `accelerate launch`"),
    "ACCELERATE_USE_MEGATRON_LM": _Request("--use_megatron_lm", "false", "plain `accelerate launch`"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": _Request("--use_parallelism_config", "false", "plain `accelerate launch`"),
}


def check_launcher(config: Config, environment: Mapping[str, str]) -> None:
    """Raise UserError if the launcher, or the file of `accelerate config`, asks for something that is not done.

    environment: That of the process, in which the launcher leaves what it was asked for.
    """
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", config.perf.precision):
        same = f"--perf.precision={precision}" if precision != "fp8" else "perf.precision fp16 or bf16"
        raise UserError(
            f"accelerate launch --mixed_precision is {precision}, expected no: use {same} (now "
            f"{config.perf.precision}) instead; where the file of `accelerate config` says so, --mixed_precision no"
        )
    for variable, request in _REQUESTS.items():
        value = environment.get(variable, request.off).lower()
        if value != request.off:
            raise UserError(
                f"accelerate launch {request.option} is {value}, expected {request.off}: use {request.instead} instead"
            )
