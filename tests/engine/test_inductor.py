"""Compiled sums whose last block is narrower than a vector: right, and nothing is written beyond a buffer's end."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from smartfast.engine.compiling import Compiler

PAD, MARK = 256, 0x5A


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Tensor, int]]]:
    """Buffers that compiled code allocates, with marked bytes before and after: (all bytes, of each border)."""
    made: list[tuple[Tensor, int]] = []

    def empty_strided(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        elements = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        whole = torch.empty(elements + 2 * PAD, dtype=dtype)
        made.append((whole.view(torch.uint8).fill_(MARK), PAD * dtype.itemsize))
        return whole.as_strided(size, stride, PAD)

    monkeypatch.setattr(torch._C._dynamo.guards, "_empty_strided_cpu", empty_strided)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):  # the code must allocate through the function above
        yield made
    torch._dynamo.reset()


def channel_sums(x: Tensor, scale: Tensor) -> Tensor:
    """Vectorised over the channels, outermost; the pixels lie between them and the summed images."""
    return (x * scale).sum(0).reshape(1, -1, *x.shape[2:])


def gelu_products(x: Tensor, scale: Tensor) -> Tensor:
    """The report of pytorch #196681: two vectorised axes with a plain one between them."""
    values = torch.nn.functional.gelu(x) * scale
    columns = torch.nn.functional.pad(values.permute(3, 2, 1, 0), (0, 0, 0, 58), value=0.5)
    return torch.nn.functional.pad(values, (0, 0, 0, 0, 0, 58), value=0.5) @ columns


@pytest.mark.parametrize(
    ("function", "shape"),
    [(channel_sums, (8, 8, 4, 4)), (channel_sums, (8, 20, 4, 4)), (gelu_products, (1, 8, 66, 66))],
)
def test_the_last_block_is_stored_by_its_size(
    function: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    padded: list[tuple[Tensor, int]],
) -> None:
    x, scale = torch.randn(shape).to(memory_format=torch.channels_last), torch.randn(shape[0], shape[1], 1, 1)
    result = Compiler(True, lambda line: None)("summed", function)(x, scale)
    torch.testing.assert_close(result, function(x, scale), rtol=1e-4, atol=1e-4)
    assert padded
    assert all((whole[:border] == MARK).all() and (whole[-border:] == MARK).all() for whole, border in padded)
