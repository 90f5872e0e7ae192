"""Launches on images and streams of any size: only the first axis of a CUDA grid is longer than 65,535 programs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartfast.kernels import Activation, Epilogue
from smartfast.kernels.bias_act.triton import launch_forward
from smartfast.kernels.conv2d.kernels import launch_conv_gemm, launch_finish_gradient
from smartfast.kernels.epilogue.triton import launch_finish, launch_finish_backward
from smartfast.kernels.philox.triton import launch_random
from smartfast.kernels.runtime import record_launches
from smartfast.kernels.score_noise.op import Target
from smartfast.kernels.score_noise.triton import launch_denoise_distance
from smartfast.kernels.upfirdn2d.op import Resampling
from smartfast.kernels.upfirdn2d.triton import launch_upfirdn2d

MOST_PROGRAMS = 65_535
"""CUDA C++ Programming Guide, technical specifications: of the second and the third axis of a grid."""
LRELU = Activation("lrelu", 0.2, 1.4, 1.0)


def meta(*shape: int, nhwc: bool = False) -> Tensor:
    x = torch.empty(shape, dtype=torch.float16, device="meta")
    return x.to(memory_format=torch.channels_last) if nhwc else x


def draw(streams: int, count: int) -> None:
    launch_random(0, torch.empty(streams, dtype=torch.int64, device="meta"), count, 0, normal=True)


def compare(images: Tensor) -> None:
    streams = torch.empty(len(images), dtype=torch.int64, device="meta")
    launch_denoise_distance(images, Target(None, None, None, streams, 0, 0))


def resample(x: Tensor, up: int = 1, down: int = 1) -> None:
    launch_upfirdn2d(x, None, Resampling((up, up), (down, down), (1, 1, 1, 1)))


def finish_gradients(z: Tensor) -> None:
    launch_finish_backward(z, z, Epilogue(activation=LRELU), [False] * 4)


LAUNCHES: dict[str, Callable[[], object]] = {
    "numbers of a stream": lambda: draw(1, 2**31 - 1),
    "streams": lambda: draw(200_000, 3),
    "pixels": lambda: compare(meta(1, 3, 16384, 16384)),
    "NHWC pixels": lambda: compare(meta(1, 3, 16384, 16384, nhwc=True)),
    "images": lambda: compare(meta(70_000, 1, 2, 2)),
    "elements": lambda: launch_forward(meta(1, 1, 16384, 16384), None, 1, LRELU),
    "rows to filter": lambda: resample(meta(1, 8, 2_000_000, 2)),
    "NHWC rows to enlarge": lambda: resample(meta(1, 64, 2_000_000, 2, nhwc=True), up=2),
    "pixels to finish": lambda: launch_finish(meta(1, 8, 16384, 16384, nhwc=True), Epilogue()),
    "pixels behind": lambda: finish_gradients(meta(1, 8, 16384, 16384, nhwc=True)),
    "convolved pixels": lambda: launch_conv_gemm(
        meta(1, 16, 4096, 4096, nhwc=True), meta(16, 16, 3, 3), Epilogue(activation=LRELU), "ieee"
    ),
    "convolved pixels behind": lambda: launch_finish_gradient(
        meta(1, 16, 4096, 4096, nhwc=True), meta(1, 16, 4096, 4096, nhwc=True), Epilogue(activation=LRELU)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHES)
def test_grids_fit(name: str) -> None:
    with record_launches() as launches:
        LAUNCHES[name]()
    assert launches
    for recorded in launches:
        assert max(recorded.grid[1:], default=1) <= MOST_PROGRAMS, recorded.kernel.fn.__name__
        assert recorded.grid[0] < 2**31


TOO_LONG: dict[str, Callable[[], object]] = {
    "planes to filter": lambda: resample(meta(1, 70_000, 64, 32)),
    "columns to filter": lambda: resample(meta(1, 8, 1, 2_000_000), up=3),
    "planes to finish": lambda: launch_finish(meta(1, 70_000, 32, 32), Epilogue()),
    "planes behind": lambda: finish_gradients(meta(1, 70_000, 32, 32)),
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_one_that_does_not_fit_is_refused(name: str) -> None:
    with (
        record_launches(),
        pytest.raises(ValueError, match=r"a grid of \([0-9, ]+\) programs, expected .* 65535"),
    ):
        TOO_LONG[name]()
