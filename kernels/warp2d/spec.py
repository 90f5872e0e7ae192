"""The formula of `kernels.warp2d`, in the dtype of x: two matrices that upsample, and four points of what they make."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampling_matrix(size: int, f: Tensor) -> Tensor:
    """[6 * size - 4, size]: samples of the mirrored axis (3 * size - 2 of them) upsampled twofold with taps f."""
    places = torch.arange(1 - size, 2 * size - 1)
    mirrored = F.one_hot((size - 1) - ((size - 1) - places.abs()).abs(), size).to(f)
    tap = torch.arange(2 * len(places))[:, None] + (len(f) - 2) // 2 - 2 * torch.arange(len(places))
    taps = torch.where((tap >= 0) & (tap < len(f)), f[tap.clamp(0, len(f) - 1)], 0)
    return 2 * taps @ mirrored


def warp2d(x: Tensor, matrix: Tensor, f: Tensor) -> Tensor:
    """y = downsample2d(z), z = up(x) at 2 A(p / 2) - 1/2; see op.py."""
    (n, c, height, width), f, margin = x.shape, f.to(x), 2 * (len(f) // 4)
    rows, columns = upsampling_matrix(height, f), upsampling_matrix(width, f)
    up = F.pad(rows @ x @ columns.T, (1, 1, 1, 1))
    q = torch.stack(
        torch.meshgrid(
            (torch.arange(2 * (width + margin)).to(x) - (width + margin - 1)) / 2,
            (torch.arange(2 * (height + margin)).to(x) - (height + margin - 1)) / 2,
            indexing="xy",
        ),
        dim=-1,
    )
    at = 2 * (q @ matrix.to(x)[:, None, :, :2].mT + matrix.to(x)[:, None, None, :, 2]) - 0.5
    u, v = at[..., 0] + 3 * width - 1.5, at[..., 1] + 3 * height - 1.5
    z = x.new_zeros(n, c, *u.shape[1:])
    image = torch.arange(n)[:, None, None]
    for dx in (0, 1):
        for dy in (0, 1):
            i, j = u.floor() + dx, v.floor() + dy
            weight = (1 - (u - i).abs()) * (1 - (v - j).abs())
            i, j = i.clamp(0, up.shape[3] - 1).long(), j.clamp(0, up.shape[2] - 1).long()
            z = z + weight[:, None] * up[image, :, j, i].permute(0, 3, 1, 2)
    windows = z[:, :, 1:-1, 1:-1].unfold(2, len(f), 2).unfold(3, len(f), 2)
    return torch.einsum("nchwij,i,j->nchw", windows, f, f)
