"""Bytes and numbers."""

import pytest
import torch

from smartfast.core.pixels import to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_and_back(dtype: torch.dtype) -> None:
    assert torch.equal(to_uint8((LEVELS.double() / 127.5 - 1).to(torch.promote_types(dtype, torch.float32))), LEVELS)
    assert to_uint8(torch.tensor([-3.0, -1.0, 1.0, 7.0], dtype=dtype)).tolist() == [0, 0, 255, 255]


def test_numbers_of_all_bytes() -> None:
    numbers = to_float(LEVELS)
    assert numbers.dtype == torch.float32 and numbers[0] == -1 and numbers[-1] == 1
    torch.testing.assert_close(numbers.double(), LEVELS.double() / 127.5 - 1, rtol=0, atol=1e-7)
    assert torch.equal(to_uint8(numbers), LEVELS)
