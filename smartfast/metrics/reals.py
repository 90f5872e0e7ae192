"""The real images' side of the metrics, computed once per data set and extractor and kept on disk."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.core.parallel import default_workers
from smartfast.data import ImageDataset
from smartfast.metrics.collect import Collected, Processes, collect
from smartfast.metrics.extractors import Extractor

MAX_REAL_FEATURES = 50_000
"""Most real images, evenly spaced, whose features are kept for KID, precision, recall and diversity. FID uses all."""

_FORMAT = 1


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
) -> Collected:
    """Statistics of all images of the data set and, on demand, features and labels of at most MAX_REAL_FEATURES.

    Read from `cache_dir` if every process finds them there; otherwise computed by all processes together and written
    by the first one. A cache that cannot be read or written gives a warning, never an error.
    """
    entry = _describe(dataset, extractor, keep_features)
    path = cache_dir / f"{dataset.fingerprint}-{extractor.tag}-{'features' if keep_features else 'statistics'}"
    cached = _load(path, entry)
    everywhere = processes.all_agree(cached is not None, device)
    if cached is not None and everywhere:
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


def _describe(dataset: ImageDataset, extractor: Extractor, keep_features: bool) -> dict[str, Any]:
    """What a cache entry must say to be used."""
    return {
        "format": _FORMAT,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "images": len(dataset),
        "resolution": dataset.resolution,
        "extractor": extractor.tag,
        "features_kept": min(len(dataset), MAX_REAL_FEATURES) if keep_features else 0,
    }


def _load(path: Path, entry: dict[str, Any]) -> Collected | None:
    index, tensors = path.with_name(path.name + ".json"), path.with_name(path.name + ".safetensors")
    if not index.is_file():
        return None
    try:
        if json.loads(index.read_text()) != entry:
            return None
        found = load_file(tensors)
        statistics = {name: found[name].numpy() for name in ("mu", "sigma")}
        features = found["features"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        warnings.warn(f"metrics cache {tensors} cannot be read and is computed anew: {error}", stacklevel=2)
        return None
    return Collected(statistics, features, torch.empty(0), found.get("labels"))


def _save(path: Path, entry: dict[str, Any], reals: Collected) -> None:
    """Writes both files under temporary names and renames them, the index last: it makes the entry valid."""
    tensors = {name: torch.from_numpy(value) for name, value in reals.statistics.items()}
    tensors["features"] = reals.features
    tensors |= {} if reals.labels is None else {"labels": reals.labels}
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary)
        temporary.replace(path.with_name(path.name + ".safetensors"))
        temporary.write_text(json.dumps(entry, indent=2) + "\n")
        temporary.replace(path.with_name(path.name + ".json"))
    except (OSError, SafetensorError) as error:
        if temporary.exists():
            temporary.unlink()
        warnings.warn(f"metrics cache {path} cannot be written: {error}", stacklevel=2)
