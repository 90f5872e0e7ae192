"""Datasheet ceilings of GPUs that are not at hand. A measured ceiling is lower: use it wherever there is one."""

from dataclasses import dataclass

from bench.base.limits import Limits
from smartfast.errors import UserError


@dataclass(frozen=True)
class Device:
    """A GPU in the words of its maker.

    name: As in the tables. limits: Memory bandwidth and dense matrix rates, half of those that count on sparsity; fp32
    is without matrix units; launch_sec is 0, datasheets do not say. link_bytes_per_sec: What a GPU sends to the others
    of its machine and at the same time receives, half of the sum that datasheets give. source: Where from.
    """

    name: str
    limits: Limits
    link_bytes_per_sec: float
    source: str


# Name; TFLOP/s in fp32, tf32, bf16 and fp16 (with float32 accumulation); memory TB/s; link GB/s; source.
_TABLE = (
    ("A100 SXM 80GB", 19.5, 156, 312, 2.039, 300, "NVIDIA A100 80GB datasheet, NVLink 3"),
    ("L40S", 91.6, 183, 362, 0.864, 32, "NVIDIA L40S datasheet, PCIe 4.0 x16"),
    ("RTX 4090", 82.6, 82.6, 165.2, 1.008, 32, "NVIDIA Ada architecture whitepaper, PCIe 4.0 x16"),
    ("H100 SXM", 66.9, 494.7, 989.4, 3.35, 450, "NVIDIA Hopper architecture whitepaper, NVLink 4"),
    ("H200 SXM", 66.9, 494.7, 989.4, 4.8, 450, "NVIDIA H200 datasheet, NVLink 4"),
    ("B200", 80.0, 1100, 2250, 8.0, 900, "NVIDIA Blackwell architecture brief, HGX at 1000 W, NVLink 5"),
)

DEVICES = {
    name: Device(
        name,
        Limits(
            memory * 1e12, {"fp32": fp32 * 1e12, "tf32": tf32 * 1e12, "bf16": half * 1e12, "fp16": half * 1e12}, 0.0
        ),
        link * 1e9,
        source,
    )
    for name, fp32, tf32, half, memory, link, source in _TABLE
}


def find_device(name: str) -> Device:
    """A device by its name, in any case, or by the start of it (`h100`).

    Raises:
        UserError: None or several begin like that.
    """
    found = [device for key, device in DEVICES.items() if key.lower().startswith(name.lower())]
    if len(found) != 1:
        raise UserError(f"device is {name!r}, expected one of {', '.join(DEVICES)}")
    return found[0]
