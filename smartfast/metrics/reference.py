"""Published statistics that the Fréchet distance is taken to."""

import zipfile
from pathlib import Path

import numpy as np

from smartfast.errors import UserError


def published_statistics(path: Path, num_features: int) -> dict[str, np.ndarray]:
    """{"mu": float64 [D], "sigma": float64 [D, D]} of a published .npz; whatever else it holds (ADM's images) is left.

    Raises:
        UserError: It is no such file, or of other than `num_features` features.
    """
    expected = f"an .npz with mu [{num_features}] and sigma [{num_features}, {num_features}]"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name], dtype=np.float64) for name in ("mu", "sigma")}
    except FileNotFoundError as error:
        raise UserError(f"metrics.reference: no file {path}, expected {expected}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"metrics.reference: {path} cannot be read ({reason}), expected {expected}") from error
    shapes = found["mu"].shape, found["sigma"].shape
    if shapes != ((num_features,), (num_features, num_features)):
        raise UserError(f"metrics.reference: {path} has mu {shapes[0]} and sigma {shapes[1]}, expected {expected}")
    if not all(np.isfinite(values).all() for values in found.values()):
        raise UserError(f"metrics.reference: {path} has numbers that are not finite, expected {expected}")
    return found
