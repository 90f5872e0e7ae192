"""What a machine can do at most, measured: the ceilings beside which every other figure is shown."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.base.timing import Failure, Timing, measure
from bench.base.ways import float32_products

DTYPES = ("fp32", "tf32", "bf16", "fp16")
"""The kinds of matrix product: float32 operands (tf32 rounds them on CUDA's matrix units), and half precision."""

_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Limits:
    """Ceilings of a machine.

    copy_bytes_per_sec: Of a copy within device memory, bytes read plus bytes written.
    flops_per_sec: Of a large matrix product, for the kinds of DTYPES that the machine has; a multiply-add is 2.
    launch_sec: From one kernel launch to the next where the kernels do nothing; on a CPU, of an operation.
    """

    copy_bytes_per_sec: float
    flops_per_sec: Mapping[str, float]
    launch_sec: float

    def floor_sec(self, *, flops: float = 0.0, dtype: str = "fp32", bytes_moved: float = 0.0) -> float:
        """The least time for some work: the longer one of its arithmetic and its memory traffic.

        Args:
            flops: Floating-point operations of matrix products and convolutions.
            dtype: Their kind, of DTYPES.
            bytes_moved: Read from and written to memory.
        """
        compute_sec = flops / self.flops_per_sec[dtype] if flops else 0.0
        return max(compute_sec, bytes_moved / self.copy_bytes_per_sec)

    def to_json(self) -> dict[str, Any]:
        """As in a result's file; `Limits(**...)` reads it."""
        return asdict(self)


def measure_limits(device: torch.device, *, quick: bool = False) -> Limits:
    """Measure the ceilings.

    Args:
        device: cuda or cpu.
        quick: Smaller sizes and few repeats, for trials: less than what the machine can do.

    Raises:
        RuntimeError: A ceiling could not be measured.
    """
    options: dict[str, Any] = dict(device=device, min_sec=0.02 if quick else 0.5, warm_up_sec=0.0 if quick else 0.1)
    copy_bytes = 1 << 26 if quick else 1 << 30 if device.type == "cuda" else 1 << 28
    source = torch.randint(0, 255, (copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_sec = _best_sec(measure({"copy": lambda: target.copy_(source)}, **options)["copy"])
    element = torch.ones(1, device=device)
    launch_sec = _best_sec(measure({"launch": lambda: element.zero_()}, **options)["launch"])
    rates = {dtype: _matrix_rate(dtype, _matrix_size(dtype, device, quick), options) for dtype in _dtypes(device)}
    return Limits(2 * copy_bytes / copy_sec, rates, launch_sec)


def _dtypes(device: torch.device) -> list[str]:
    return [dtype for dtype in DTYPES if dtype != "tf32" or device.type == "cuda"]


def _matrix_size(dtype: str, device: torch.device, quick: bool) -> int:
    if device.type == "cuda":
        return 2048 if quick else 8192
    return 128 if quick else 1024 if dtype == "fp32" else 256  # half precision may be a thousand times slower


def _matrix_rate(dtype: str, size: int, options: Mapping[str, Any]) -> float:
    """Operations per second of a square matrix product of random numbers."""
    a, b = (
        torch.randn(size, size, device=options["device"]).to(_TORCH_DTYPES.get(dtype, torch.float32)) for _ in range(2)
    )
    with float32_products(tf32=dtype == "tf32"):
        outcome = measure({dtype: lambda: a @ b}, min_repeats=5, **options)[dtype]
    return 2.0 * size**3 / _best_sec(outcome)


def _best_sec(outcome: Timing | Failure) -> float:
    """Of the fastest fifth: a ceiling is what the machine does when nothing else is in its way."""
    if isinstance(outcome, Failure):
        raise RuntimeError(f"a limit of this machine could not be measured: {outcome.error}")
    return outcome.p20_sec
