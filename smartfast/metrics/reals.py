"""The real images' side of the metrics, computed once per data set and extractor and kept on disk.

An entry is one .safetensors file, which says what it is of and carries a checksum: what is not as it was written costs
the time to compute it again, and a line.
"""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.core.files import appears_complete
from smartfast.core.parallel import default_workers
from smartfast.data import ImageDataset
from smartfast.metrics.collect import Collected, Processes, collect
from smartfast.metrics.extractors import Extractor

MAX_REAL_FEATURES = 50_000
"""Most real images, evenly spaced, whose features are kept for KID, precision, recall and diversity. FID uses all."""

_FORMAT = "2"


def real_features(
    dataset: ImageDataset,
    extractor: Extractor,
    *,
    batch: int,
    keep_features: bool,
    device: torch.device,
    processes: Processes,
    cache_dir: Path,
    progress: bool,
) -> Collected | None:
    """Statistics of all images of the data set and, on demand, features and labels of at most MAX_REAL_FEATURES.

    The first process, which alone compares with them, reads them from its `cache_dir`, and the others return None: they
    may have a folder of their own, on another machine. What is not there is computed by all processes together and
    written by the first. A cache that cannot be read or written gives a warning, never an error.
    """
    entry = _describe(dataset, extractor, keep_features)
    kind = "features" if keep_features else "statistics"
    path = cache_dir / f"{dataset.fingerprint}-{extractor.tag}-{kind}.safetensors"
    cached = _load(path, entry) if processes.index == 0 else None
    (is_cached,) = processes.of_the_first([float(cached is not None)], device)
    if is_cached:
        return cached
    with ThreadPoolExecutor(default_workers(shared=True)) as pool:

        def read(numbers: Tensor) -> tuple[Tensor, Tensor | None]:
            images = torch.stack(list(pool.map(lambda index: dataset[index][0], numbers.tolist())))
            return images, None if dataset.labels is None else dataset.labels[numbers]

        reals = collect(
            read,
            len(dataset),
            extractor,
            batch=batch,
            keep=MAX_REAL_FEATURES if keep_features else 0,
            device=device,
            processes=processes,
            title="features of real images",
            progress=progress,
        )
    if processes.index == 0:
        _save(path, entry, reals)
    return reals


def _describe(dataset: ImageDataset, extractor: Extractor, keep_features: bool) -> dict[str, str]:
    """What a cache entry must say to be used. Not where the data lie: copies of them share it."""
    entry = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset),
        "resolution": dataset.resolution,
        "extractor": extractor.tag,
        "features_kept": min(len(dataset), MAX_REAL_FEATURES) if keep_features else 0,
    }
    return {"format": _FORMAT, "entry": json.dumps(entry)}


def _load(path: Path, entry: dict[str, str]) -> Collected | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            written = file.metadata()
        found = load_file(path)
        if written != entry | {"sha256": _sha256(found)}:
            raise ValueError("it is of other data or another version, or not as it was written")
    except (OSError, ValueError, SafetensorError) as error:
        warnings.warn(f"metrics cache {path} cannot be used and is computed anew: {error}", stacklevel=2)
        return None
    statistics = {name: found[name].numpy() for name in ("mu", "sigma")}
    return Collected(statistics, found["features"], torch.empty(0), found.get("labels"))


def _save(path: Path, entry: dict[str, str], reals: Collected) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in reals.statistics.items()}
    tensors["features"] = reals.features
    tensors |= {} if reals.labels is None else {"labels": reals.labels}
    try:
        with appears_complete(path) as temporary:
            save_file(tensors, temporary, entry | {"sha256": _sha256(tensors)})
    except (OSError, SafetensorError) as error:
        warnings.warn(f"metrics cache {path} cannot be written: {error}", stacklevel=2)


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Of all names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
