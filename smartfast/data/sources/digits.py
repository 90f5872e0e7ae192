"""The UCI handwritten digits (1,797 real 8x8 images, ten classes), bundled so that everything runs offline.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (CC BY 4.0), the test part as scikit-learn ships it. `python -m smartfast.data.sources.digits`
writes the bundled file anew from scikit-learn.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BUNDLED_FILE = Path(__file__).with_name("digits.npz")
NATIVE_RESOLUTION = 8
_MAX_VALUE = 16


def load_digits(resolution: int = 16) -> tuple[Tensor, Tensor]:
    """The bundled digits, enlarged from 8x8 by antialiased bicubic interpolation.

    Args:
        resolution: Height and width in pixels, at least 8.

    Returns:
        Images uint8 [1797, 1, resolution, resolution] (white on black) and labels int64 [1797] in 0..9.
    """
    with np.load(BUNDLED_FILE) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    enlarged = F.interpolate(images[:, None].float() / _MAX_VALUE, size=resolution, mode="bicubic", antialias=True)
    return (enlarged.clamp(0, 1) * 255).round().to(torch.uint8), labels.to(torch.int64)


def _write_bundled_file() -> None:
    from sklearn import datasets  # only the test extra installs scikit-learn

    digits = datasets.load_digits()
    np.savez_compressed(BUNDLED_FILE, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))
    print(f"{BUNDLED_FILE}: {len(digits.target)} images, {BUNDLED_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    _write_bundled_file()
