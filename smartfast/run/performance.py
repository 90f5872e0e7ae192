"""What perf.preset makes of the settings of speed that nobody sets, on the machine at hand, and how it is said."""

import dataclasses
import importlib.util
from typing import Literal

import torch

from smartfast.config.schema import Config, PerfConfig
from smartfast.core.cpu import set_up_cpu

Precision = Literal["fp32", "tf32", "fp16", "bf16"]

FALLBACKS: dict[Precision, Precision] = {"bf16": "fp16", "fp16": "fp32"}
"""The arithmetic that takes the place of one that a device lacks."""
_HOW = {False: "eager", True: "compiled", "background": "eager until a process of its own has compiled every phase"}


def with_arithmetic(config: Config, device: torch.device) -> tuple[Config, list[str]]:
    """The configuration with an arithmetic that the device has in place of the preferred one, and why, in lines.

    One that was set stays, and is refused where it cannot work (`smartfast.run.checks`).
    """
    perf, lines = config.perf, []
    if perf.preset == "auto" and perf.precision == perf.preferred:
        precision = perf.precision
        while (problem := problem_of_precision(precision, device)) is not None:
            lines.append(f"performance: {FALLBACKS[precision]} in place of {precision}, for {problem}")
            precision = FALLBACKS[precision]
        config = dataclasses.replace(config, perf=dataclasses.replace(perf, precision=precision))
    return config, lines


def problem_of_precision(precision: str, device: torch.device) -> str | None:
    """Why a run on the device cannot have an arithmetic, None if it can."""
    if precision == "fp16" and device.type == "cpu":
        return "a CPU has no fast fp16"
    if precision == "bf16" and device.type == "cpu":
        return "a CPU is slow in it"
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU has no bf16"
    return None


def with_preset(perf: PerfConfig, device: torch.device) -> tuple[PerfConfig, list[str]]:
    """The settings with a value for everything that perf.preset decides, and what it leaves out and why, in lines."""
    is_fast = perf.preset == "auto" and device.type == "cuda"
    problem = compiler_problem() if is_fast and perf.compile is None else None
    lines = [f"performance: phases run eagerly, for {problem}"] if problem is not None else []
    values = dataclasses.replace(
        perf,
        compile=is_fast and problem is None if perf.compile is None else perf.compile,
        cuda_graphs=is_fast if perf.cuda_graphs is None else perf.cuda_graphs,
        channels_last=is_fast if perf.channels_last is None else perf.channels_last,
    )
    return values, lines


def compiler_problem() -> str | None:
    """Why phases cannot be compiled for a GPU here, None if nothing is known against it."""
    if importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton, which is not installed"
    capability = torch.cuda.get_device_capability()
    if capability < (7, 0):
        return f"torch.compile needs compute capability 7.0, this GPU has {capability[0]}.{capability[1]}"
    return None


def set_up_arithmetic(config: Config, device: torch.device, num_processes: int) -> None:
    """Choose threads, tf32 and cuDNN's search for algorithms for this process, one of `num_processes` on this machine.

    perf.* says how.
    """
    if device.type == "cpu":
        set_up_cpu(config.perf.cpu_threads, num_processes)
    elif config.perf.precision != "fp32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    else:
        torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def performance_line(perf: PerfConfig, device: torch.device) -> str:
    """What is on, in one line; settings with a value each."""
    how = _HOW.get(perf.compile or False, f"compiled with {perf.compile}")
    graphs = "CUDA graphs" if perf.cuda_graphs else "no CUDA graphs"
    order = "channels_last" if perf.channels_last else "channels_first"
    parts = [how, *([graphs] if device.type == "cuda" else []), order, perf.precision]
    return f"performance: {', '.join(parts)} (perf.preset {perf.preset})"
