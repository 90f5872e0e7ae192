"""What an augmentation adds to images or takes from them: frequency bands, noise, a square."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
"""The symlet with two vanishing moments (Daubechies, "Ten Lectures on Wavelets", table 6.1)."""
BANDS = 4


@lru_cache(maxsize=1)
def filter_bank() -> np.ndarray:
    """Filters of four octave bands that sum to the identity, float64 [4, 43], the lowest first."""
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low2, high2 = (np.convolve(taps, taps[::-1]) / 2 for taps in (low, high))
    bank = np.eye(BANDS, 1)
    for band in range(1, BANDS):
        spread = np.zeros((BANDS, 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in spread])
        first = (bank.shape[1] - len(high2)) // 2
        bank[band, first : first + len(high2)] += high2
    return bank


def filter_bands(images: Tensor, gains: Tensor, bank: Tensor) -> Tensor:
    """Images [N, C, H, W] with each band times its gain [N, 4], mirrored at the borders; bank is `filter_bank`."""
    n, c, height, width = images.shape
    if n == 0:
        return images
    taps = (gains.to(images.dtype) @ bank.to(images.dtype)).repeat_interleave(c, dim=0)
    reach = bank.shape[1] // 2
    padded = images[:, :, mirrored(height, reach, images.device)][:, :, :, mirrored(width, reach, images.device)]
    flat = padded.reshape(1, n * c, *padded.shape[2:])
    flat = F.conv2d(flat, taps[:, None, None, :], groups=n * c)
    flat = F.conv2d(flat, taps[:, None, :, None], groups=n * c)
    return flat.reshape(n, c, height, width)


def mirrored(size: int, reach: int, device: torch.device) -> Tensor:
    """Indices int64 [size + 2 * reach] that continue an axis as its mirror image, as often as it takes."""
    period = max(2 * size - 2, 1)
    place = torch.arange(-reach, size + reach, device=device).remainder(period)
    return torch.where(place < size, place, period - place)


def cut_out(images: Tensor, side: Tensor, centre: Tensor) -> Tensor:
    """Images [N, C, H, W] with 0 in a square of `side` [N] about `centre` [N, 2] (x, y), in shares of the image."""
    x, y = (
        ((torch.arange(size, device=images.device) + 0.5) / size - centre[:, axis, None]).abs() < side[:, None] / 2
        for axis, size in ((0, images.shape[3]), (1, images.shape[2]))
    )
    return images * ~(x[:, None, None, :] & y[:, None, :, None])
