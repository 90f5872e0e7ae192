"""The formulas of `kernels.conv2d_resample` and `kernels.modulated_conv2d`, in the dtype of their arguments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .conv2d import spec as conv_spec
from .conv2d.op import Convolution
from .epilogue import spec as epilogue_spec
from .epilogue.op import Epilogue
from .geometry import filter_size, parse_padding
from .upfirdn2d import spec as filter_spec
from .upfirdn2d.op import Resampling


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    *,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Enlarge, convolve, shrink; the padding centres the filters."""
    fw, fh = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    if up > 1:
        x0, x1, y0, y1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2, y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    enlarge = Resampling((up, up), pads=(x0, x1, y0, y1), flip_filter=flip_filter, gain=up**2)
    x = filter_spec.upfirdn2d(x, f if up > 1 else None, enlarge)
    x = conv_spec.conv2d(x, weight if flip_weight else weight.flip([2, 3]), Convolution(groups=groups))
    shrink = Resampling(down=(down, down), flip_filter=flip_filter)
    return filter_spec.upfirdn2d(x, f, shrink) if down > 1 else x


def modulated_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, epilogue: Epilogue, *, demodulate: bool = True, **conv: Any
) -> Tensor:
    """Form every sample's weight, normalise it, convolve; at least one sample, and no demodulation in the epilogue."""
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights / (weights.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).sqrt()
    images = [conv2d_resample(image[None], w, **conv) for image, w in zip(x, weights, strict=True)]
    return epilogue_spec.finish(torch.cat(images), epilogue)
