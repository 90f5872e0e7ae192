"""The affine warp of ADA as one writes it with PyTorch's own functions: pad, upsample, grid_sample, downsample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def straightforward_warp(x: Tensor, matrix: Tensor, f: Tensor) -> Tensor:
    """What `smartfast.kernels.warp2d` defines (Karras et al., arXiv 2006.06676, appendix B), written from the paper.

    Only as much of the mirrored image is made as the batch needs, which the host reads off the maps: so the sizes
    change from batch to batch, and no CUDA graph can hold it. grid_sample gives derivatives of the second order on
    PyTorch's newer versions only.

    Args:
        x: [N, C, H, W].
        matrix: [N, 2, 3], from pixels of the result to pixels of x, both from the centre.
        f: [k], k a multiple of 4: the low-pass filter.
    """
    channels, (height, width), taps = x.shape[1], x.shape[2:], len(f)
    f, at = f.to(x), _places(x, matrix.to(x), taps)
    # The interpolation and the filter reach so far beyond a place.
    margins = [
        min(max(math.ceil((beyond - size + 1) / 2) + taps // 4 + 1, 0), size - 1)
        for beyond, size in zip(at.abs().amax(dim=(0, 1, 2)).tolist(), (width, height), strict=True)
    ]
    x = F.pad(x, (margins[0], margins[0], margins[1], margins[1]), mode="reflect")
    row, column = (f.view(shape).expand(channels, *shape[1:]) for shape in ((1, 1, 1, taps), (1, 1, taps, 1)))
    x = F.conv_transpose2d(x, 2 * row, stride=(1, 2), padding=(0, taps // 2 - 1), groups=channels)
    x = F.conv_transpose2d(x, 2 * column, stride=(2, 1), padding=(taps // 2 - 1, 0), groups=channels)
    grid = 2 * at / at.new_tensor([x.shape[3], x.shape[2]])
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.conv2d(F.conv2d(x, row, stride=(1, 2), groups=channels), column, stride=(2, 1), groups=channels)


def _places(x: Tensor, matrix: Tensor, taps: int) -> Tensor:
    """Where each half pixel of the result, and of the filter's reach around it, comes from: [N, rows, columns, 2].

    x and y in half pixels from the image's centre.
    """
    rows, columns = (
        (torch.arange(2 * size + taps - 2).to(x) - (size + taps // 2 - 2)) / 2 for size in (x.shape[2], x.shape[3])
    )
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    return 2 * (points @ matrix[:, None, :, :2].mT + matrix[:, None, None, :, 2]) - 0.5
