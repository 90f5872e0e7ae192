"""Kernels that keep or break one limit of compile_report each; a program that prints what it finds, as JSON."""

import json
from dataclasses import replace

import torch
import triton
import triton.language as tl

from bench.proofs.ahead_of_time import Binary, compile_ahead, specialise
from bench.proofs.compile_report import SHARED_BYTES, violations
from bench.proofs.specialisations import Use
from smartfast.kernels import runtime

CAPABILITIES = (80, 90, 100, 120)


@triton.jit
def normalise(x, y, BLOCK: tl.constexpr):
    """Every element is needed again after the sum: 16384 of them are 512 registers in each thread of a warp."""
    offsets = tl.arange(0, BLOCK)
    value = tl.load(x + offsets)
    tl.store(y + offsets, value / tl.sum(value))


@triton.jit
def copy_pixels(x, y, C, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """NHWC; the compiler knows that rows are aligned only if C is divisible by 16."""
    pixels = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.arange(0, BLOCK_C)
    offsets = pixels[:, None] * C + channels[None, :]
    mask = channels[None, :] < C
    tl.store(y + offsets, tl.load(x + offsets, mask=mask, other=0.0), mask=mask)


@triton.jit
def multiply(a, b, c, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    rows, columns = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    offsets = rows * SIZE + columns
    product = tl.dot(tl.load(a + offsets), tl.load(b + offsets), input_precision=PRECISION)
    tl.store(c + offsets, product.to(c.dtype.element_ty))


def images(channels: int) -> torch.Tensor:
    return torch.empty(2, channels, 8, 8, dtype=torch.float16, device="meta").to(memory_format=torch.channels_last)


def square(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(size, size, dtype=dtype, device="meta")


def launches() -> dict[str, runtime.Launch]:
    """Recorded launches by what they show."""
    row = torch.empty(16384, device="meta")
    with runtime.record_launches() as recorded:
        for warps in (1, 8):
            runtime.launch(normalise, (1,), written=("y",), num_warps=warps, x=row, y=row, BLOCK=16384)
        for channels in (24, 32):
            x, y = images(channels), images(channels)
            runtime.launch(copy_pixels, (2,), written=("y",), x=x, y=y, C=channels, BLOCK_P=64, BLOCK_C=32)
        products = ((64, torch.float16, "ieee"), (64, torch.float32, "tf32"), (16, torch.float32, "ieee"))
        for size, dtype, precision in products:
            a, b, c = (square(size, dtype) for _ in range(3))
            runtime.launch(multiply, (1,), written=("c",), a=a, b=b, c=c, SIZE=size, PRECISION=precision)
    names = ["spilling", "not spilling", "narrow", "wide", "fp16", "tf32", "ieee"]
    return dict(zip(names, recorded, strict=True))


def without_tensor_core(binary: Binary) -> Binary:
    return replace(binary, listing=tuple((a, text) for a, text in binary.listing if "MMA" not in text))


if __name__ == "__main__":
    found: dict[str, dict[int, list[str]]] = {}
    instruction: dict[int, str | None] = {}
    recorded = launches()
    for capability in CAPABILITIES:
        binaries = compile_ahead([specialise(launch) for launch in recorded.values()], capability)
        for (name, launch), binary in zip(recorded.items(), binaries, strict=True):
            use = Use()
            use.add(launch, name)
            found.setdefault(name, {})[capability] = violations(use, binary, capability)
            if name == "fp16":
                instruction[capability] = binary.tensor_core
                crowded = replace(binary, shared_bytes=SHARED_BYTES[capability] + 1)
                found.setdefault("crowded", {})[capability] = violations(use, crowded, capability)
                found.setdefault("stripped", {})[capability] = violations(use, without_tensor_core(binary), capability)
    print(json.dumps({"violations": found, "tensor_core": instruction}))
