"""Small calls of every op, of odd sizes and in every dtype and memory order: what no training's shapes would show."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from .bias_act.op import bias_act
from .calls import Call, recorded_calls
from .composite import modulated_conv2d
from .grouped_linear.op import grouped_linear
from .l2_attention.op import l2_attention
from .philox.op import philox_normal, philox_uniform
from .score_noise.op import denoise_distance, denoise_distance_and_gradient, noise_forward
from .selection import use
from .upfirdn2d.op import setup_filter, upfirdn2d
from .warp2d.op import warp2d

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
BATCH, CHANNELS, HEIGHT, WIDTH = 3, 5, 7, 9


def odd_calls() -> list[Call]:
    """Made by calling the public functions, so that they are calls that the ops can get."""
    with use("aten"), recorded_calls() as calls:
        for dtype, layout in product(DTYPES, LAYOUTS):
            _images(dtype, layout)
        for dtype in DTYPES:
            _rows(dtype)
        stream = torch.arange(BATCH)
        philox_uniform(1, stream, CHANNELS)
        philox_normal(1, stream, CHANNELS)
    return list(calls.values())


def _images(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = _leaf(BATCH, CHANNELS, HEIGHT, WIDTH, dtype=dtype, layout=layout)
    f = setup_filter([1, 3, 3, 1])
    bias_act(x, _leaf(CHANNELS, dtype=dtype), act="lrelu", clamp=256.0)
    bias_act(x, act="swish")
    upfirdn2d(x, f, up=2, down=3, padding=(2, 1, 0, 3))
    upfirdn2d(x, None, up=2)
    upfirdn2d(x, None, down=2)
    upfirdn2d(x, None, padding=-1)
    resampled: list[dict[str, Any]] = [{}, {"up": 2, "f": f}, {"down": 2, "f": f}]
    for options in resampled:
        modulated_conv2d(
            x,
            _leaf(4, CHANNELS, 3, 3),
            _leaf(BATCH, CHANNELS),
            bias=_leaf(4),
            padding=1,
            act="lrelu",
            next_styles=_leaf(BATCH, 4),
            **options,
        )
    warp2d(x[:1, :1, :3, :3], torch.eye(2, 3)[None], torch.full((4,), 1 / 4))
    _score(x)


def _score(x: Tensor) -> None:
    levels: dict[str, Any] = dict(alpha=torch.full((BATCH,), 0.8), sigma=torch.full((BATCH,), 0.6))
    noise: dict[str, Any] = dict(seed=1, stream=torch.arange(BATCH))
    noise_forward(x, **levels, **noise)
    for kind in ("eps", "x0", "v"):
        about: dict[str, Any] = dict(parameterization=kind, x=None if kind == "eps" else x.detach(), **levels, **noise)
        denoise_distance(x, **about)
        denoise_distance_and_gradient(x.detach(), **about)


def _rows(dtype: torch.dtype) -> None:
    for tokens, numbers in ((17, 8), (3, 5)):
        q, k, v = (_leaf(2, 3, count, numbers, dtype=dtype) for count in (tokens, tokens + 2, tokens + 2))
        l2_attention(q, k, v, scale=numbers**-0.5)
    x, weight, bias = _leaf(19, 6, dtype=dtype), _leaf(4, 10, 6, dtype=dtype), _leaf(4, 10, dtype=dtype)
    grouped_linear(x, weight, bias, torch.tensor([0, 0, 7, 7, 19]))


def _leaf(
    *shape: int, dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.contiguous_format
) -> Tensor:
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
