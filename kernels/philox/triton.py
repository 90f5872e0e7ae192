"""`kernels.philox_uniform` and `kernels.philox_normal` by Triton: all numbers of a call in one launch, 4 bytes each."""

import torch
from torch import Tensor

from .. import runtime
from ..selection import register
from .kernels import random_kernel

_MOST_BLOCKS = 256


def launch_random(seed: int, stream: Tensor, count: int, purpose: int, *, normal: bool) -> Tensor:
    y = stream.new_empty(stream.shape[0], count, dtype=torch.float32)
    blocks = min(runtime.next_power_of_two(-(-count // 4)), _MOST_BLOCKS)
    shares = -(-count // (4 * blocks))
    runtime.launch(
        random_kernel,
        (stream.shape[0] * shares,),
        written=("y",),
        stream=stream.contiguous(),
        y=y,
        seed=seed,
        purpose=purpose,
        count=count,
        shares=shares,
        NORMAL=normal,
        BLOCKS=blocks,
    )
    return y


@torch.library.custom_op("smartfast::uniform", mutates_args=())
def uniform_op(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return launch_random(seed, stream, count, purpose, normal=False)


@torch.library.custom_op("smartfast::normal", mutates_args=())
def normal_op(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return launch_random(seed, stream, count, purpose, normal=True)


@uniform_op.register_fake
@normal_op.register_fake
def _(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return stream.new_empty(stream.shape[0], count, dtype=torch.float32)


register("philox_uniform", "triton", uniform_op)
register("philox_normal", "triton", normal_op)
