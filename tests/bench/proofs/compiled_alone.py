"""What only a compiler sees of kernels, for the interpreter runs them otherwise; a program that prints it as JSON."""

import json

import torch

from bench.proofs.ahead_of_time import compile_ahead, specialise
from smartfast.kernels import l2_attention, upfirdn2d
from smartfast.kernels.runtime import record_launches


def identity_filter() -> list[str]:
    """Kernels of resampling without a filter, which compile."""
    x = torch.randn(2, 16, 16, 16)
    with record_launches() as launches:
        for layout in (torch.contiguous_format, torch.channels_last):
            for options in (dict(up=2), dict(down=2), dict(padding=-1)):
                upfirdn2d(x.contiguous(memory_format=layout), None, impl="triton", **options)
    compile_ahead([specialise(launch) for launch in launches], 90)
    return sorted({launch.kernel.fn.__name__ for launch in launches})


def rounded_to_tf32() -> dict[str, bool]:
    """Kernels of attention by distance in half precision: whether the low 13 bits of something are cut off."""
    leaves = [torch.randn(1, 2, 32, 16, dtype=torch.float16, requires_grad=True) for _ in range(3)]
    with record_launches() as launches:
        l2_attention(*leaves, scale=0.25, impl="triton").sum().backward()
    binaries = compile_ahead([specialise(launch) for launch in launches], 90)
    return {
        launch.kernel.fn.__name__: any("0xffffe000" in text for _, text in binary.listing)
        for launch, binary in zip(launches, binaries, strict=True)
    }


if __name__ == "__main__":
    print(json.dumps({"identity": identity_filter(), "rounded": rounded_to_tf32()}))
