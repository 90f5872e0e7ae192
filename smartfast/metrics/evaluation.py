"""Quality of generated images: Fréchet and kernel distance, classifier score, precision and recall, diversity.

The formulas are torch-fidelity's own functions, called with features that are never written to disk as images.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from smartfast.config.schema import MetricsConfig
from smartfast.core.caches import default_cache_dir
from smartfast.core.draws import are_vectors
from smartfast.data import ImageDataset
from smartfast.metrics.collect import Collected, ImageSource, Processes, collect
from smartfast.metrics.diversity import within_class_diversity
from smartfast.metrics.extractors import Extractor, MetricUnavailable, build_extractor, check_features, full_float32
from smartfast.metrics.manifold import manifold_measures
from smartfast.metrics.names import MEASURES, Metric
from smartfast.metrics.reals import real_features
from smartfast.metrics.reference import published_statistics

KID_SUBSET_SIZE = 1000
KID_SUBSETS = 100
ISC_SPLITS = 10
PRC_NEIGHBOURS = 3
PRC_BATCH = 5000
"""Rows and columns of the distance matrix at a time; a row of tiles of it is held in memory."""


def evaluate(
    sample: ImageSource,
    dataset: ImageDataset,
    config: MetricsConfig,
    *,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[Tensor], Tensor] | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Compares `config.samples` generated images with the data set. All processes must call it together.

    Args:
        sample: Sample numbers int64 [n] -> images uint8 [n, C, H, W], or points float [n, 2, 1, 1], and their labels
            int64 [n] (None without); a pure function, so that the result does not depend on the number of processes,
            up to rounding.
        dataset: The real images. The Fréchet distance uses all, the other metrics at most 50,000, evenly spaced.
        config: What to compute, from how many samples and with which features.
        device: Where the features are computed.
        process_index, num_processes: This process among all.
        gather: Concatenates a tensor over the processes in their order (`accelerate.utils.gather`).
        cache_dir: Folder of the cached real features; None takes $SMARTFAST_CACHE or the user's cache folder.
        progress: Show progress bars (in the first process only).

    Returns:
        The metrics asked for, each under the name of `Metric` with its features, and the time they took, `seconds`.
        Measures: fd (Heusel et al. 2017), kd (mean over 100 subsets, Binkowski et al. 2018), cs (mean over 10 splits,
        Salimans et al. 2016), precision and recall (3 neighbours, Kynkaanniemi et al. 2019, in the features of
        `config.features` instead of VGG16), diversity (`within_class_diversity`), off, distance, wasserstein, covered
        (`ManifoldMeasures`). The same in every process.

    Raises:
        MetricUnavailable: The Inception weights cannot be had here.
        UserError: metrics.weights or metrics.reference is not the file that it should be, or the data have no such
            features.
    """
    check_features(config, dataset)
    start_sec = time.perf_counter()
    device = torch.device(device)
    processes = Processes(process_index, num_processes, gather)
    extractor = _build_extractor_together(config, device, processes)
    names: set[str] = set(config.names)
    shared: dict[str, Any] = dict(batch=config.batch, device=device, processes=processes, progress=progress)
    reals = reference = None
    if config.reference is not None and "fid" in names:
        reference = published_statistics(Path(config.reference).expanduser(), extractor.num_features(device))
    if names - ({"isc"} if reference is None else {"isc", "fid"}):
        needs_features = bool(names - {"isc", "fid"})
        folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        reals = real_features(dataset, extractor, keep_features=needs_features, cache_dir=folder, **shared)
    keep = config.samples if names - {"fid"} else 0
    fakes = collect(sample, config.samples, extractor, keep=keep, title="features of samples", **shared)
    keys = {name: [str(Metric(m, config.features)) for m in MEASURES[name]] for name in MEASURES if name in names}
    found = dict.fromkeys([*(key for of_name in keys.values() for key in of_name), "seconds"], 0.0)
    if processes.index == 0:  # the rest is short, and would only compete with itself for the cores
        if "fid" in names:
            counts = {"samples": config.samples} | ({} if reference else {"real images": len(dataset)})
            _warn_if_singular(len(fakes.statistics["mu"]), counts)
        found |= compute_metrics(fakes, reals, keys, device, reference)
        found["seconds"] = time.perf_counter() - start_sec
    return dict(zip(found, processes.of_the_first(list(found.values()), device), strict=True))


def _build_extractor_together(config: MetricsConfig, device: torch.device, processes: Processes) -> Extractor:
    """`build_extractor`, failing in all processes if it fails in one: the others would wait for it forever."""
    extractor, reason = None, "another process could not get the feature extractor's weights"
    try:
        extractor = build_extractor(config, device)
    except MetricUnavailable as error:
        reason = str(error)
    everywhere = processes.all_agree(extractor is not None, device)
    if extractor is None or not everywhere:
        raise MetricUnavailable(reason)
    return extractor


def compute_metrics(
    fakes: Collected,
    reals: Collected | None,
    keys: Mapping[str, Sequence[str]],
    device: torch.device,
    reference: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Metrics of what is known of fakes and reals; `reals` may be None for isc, and for fid with a reference.

    A metric that fails is nan, and a warning says why: it must not end a training run.

    Args:
        keys: Choices of `metrics.names`, and what the values of each are called.
        reference: Statistics that fid compares with, None = those of the reals.
    """
    computations: dict[str, Callable[[], tuple[float, ...]]] = {"isc": lambda: (_classifier_score(fakes.logits),)}
    if reals is not None:
        computations |= {
            "kid": lambda: (_kernel_distance(fakes.features, reals.features),),
            "prc": lambda: _precision_recall(fakes.features, reals.features, device),
            "diversity": lambda: (_diversity(fakes, reals),),
            "manifold": lambda: manifold_measures(fakes.features, reals.features),
        }
    known = reference if reference is not None or reals is None else reals.statistics
    if known is not None:
        computations["fid"] = partial(_frechet_distance, fakes.statistics, known)
    values: dict[str, float] = {}
    for name, of_name in keys.items():
        try:
            found = computations[name]()
        except Exception as error:  # out of memory, a singular matrix: whatever it is, the run goes on
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{', '.join(of_name)}: not computed, {reason}", stacklevel=2)
            found = (math.nan,) * len(of_name)
        values |= dict(zip(of_name, found, strict=True))
    return values


def _frechet_distance(fakes: Mapping[str, np.ndarray], reals: Mapping[str, np.ndarray]) -> tuple[float]:
    return (fid_statistics_to_metric(fakes, reals, False)[KEY_METRIC_FID],)


def _warn_if_singular(num_features: int, counts: Mapping[str, int]) -> None:
    """The covariance of n points has at most rank n - 1."""
    for what, count in counts.items():
        if count <= num_features:
            warnings.warn(
                f"Fréchet distance: {count} {what} for {num_features} features, so their covariance is singular and "
                f"the value depends on how many they are; expected more than {num_features}",
                stacklevel=3,
            )


def _classifier_score(logits: Tensor) -> float:
    return isc_features_to_metric(logits, splits=min(ISC_SPLITS, len(logits)))[KEY_METRIC_ISC_MEAN]


def _diversity(fakes: Collected, reals: Collected) -> float:
    fake_labels, real_labels = (None if are_vectors(some.labels) else some.labels for some in (fakes, reals))
    value = within_class_diversity(fakes.features, fake_labels, reals.features, real_labels)
    if math.isnan(value):
        warnings.warn("diversity: nan, no class has two samples and two different real images", stacklevel=2)
    return value


def _kernel_distance(fakes: Tensor, reals: Tensor) -> float:
    size = min(KID_SUBSET_SIZE, len(fakes), len(reals))
    if size < KID_SUBSET_SIZE:
        warnings.warn(
            f"kernel distance: subsets of {size} images instead of {KID_SUBSET_SIZE}, there are only {len(fakes)} "
            f"samples and {len(reals)} real images",
            stacklevel=2,
        )
    metric = kid_features_to_metric(fakes, reals, kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False)
    return metric[KEY_METRIC_KID_MEAN]


def _precision_recall(fakes: Tensor, reals: Tensor, device: torch.device) -> tuple[float, float]:
    neighbours = min(PRC_NEIGHBOURS, len(fakes) - 1, len(reals) - 1)
    if neighbours < PRC_NEIGHBOURS:
        warnings.warn(
            f"precision and recall: {neighbours} neighbours instead of {PRC_NEIGHBOURS}, there are only {len(fakes)} "
            f"samples and {len(reals)} real images",
            stacklevel=2,
        )
    with full_float32():
        metric = prc_features_to_metric(
            fakes.to(device),
            reals.to(device),
            prc_neighborhood=neighbours,
            prc_batch_size=PRC_BATCH,
            save_cpu_ram=True,
            verbose=False,
        )
    return metric[KEY_METRIC_PRECISION], metric[KEY_METRIC_RECALL]
