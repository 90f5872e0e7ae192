"""Sharing images out over processes, and statistics of features that arrive in batches."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from smartfast.metrics.collect import Processes, RunningStatistics, shares


def features(count: int, dim: int, *, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return offset + torch.randn(count, dim, generator=generator, dtype=torch.float64)


def exactly(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> torch.Tensor:
    """Features float64 [count, D] with exactly this mean and unbiased covariance."""
    white = features(count, len(mean), seed=seed).numpy()
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def running(x: torch.Tensor, batch: int) -> dict[str, np.ndarray]:
    statistics = RunningStatistics()
    for part in x.split(batch):
        statistics.add(part)
    return statistics.result()


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_running_statistics_equal_those_of_all_features(batch, offset):
    x = features(53, 5, offset=offset)
    expected = fid_features_to_statistics(x)
    for name, value in running(x, batch).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-11)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(3)
    mean_1, mean_2 = rng.normal(size=(2, 6))
    cov_1, cov_2 = (a @ a.T + 0.1 * np.eye(6) for a in rng.normal(size=(2, 6, 6)))
    values, vectors = np.linalg.eigh(cov_1)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_2 @ root)).sum()
    expected = ((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * cross
    statistics = [running(exactly(m, c, 211, s), 32) for m, c, s in ((mean_1, cov_1, 1), (mean_2, cov_2, 2))]
    found = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert found == pytest.approx(expected, rel=1e-10)
    assert expected > 1


@pytest.mark.parametrize(
    "count, batch, processes", [(10, 4, 1), (11, 4, 3), (12, 4, 3), (13, 4, 3), (2, 5, 4), (1, 1, 2)]
)
def test_shares_cover_every_number_once_and_in_order(count, batch, processes):
    rounds = [list(shares(count, batch, Processes(p, processes))) for p in range(processes)]
    assert len({len(r) for r in rounds}) == 1, "every process must take part in every gathering"
    seen = []
    for parts in zip(*rounds, strict=True):
        assert len({len(part) for part in parts}) == 1
        together = Processes(0, processes, lambda x, parts=parts: torch.cat(parts)).in_order(parts[0])
        seen += together.tolist()
    assert seen[:count] == list(range(count))
    assert set(seen[count:]) <= {count - 1}, "only the last number may fill up"


def test_several_processes_need_a_gather():
    with pytest.raises(ValueError, match="gather is None"):
        Processes(0, 2).in_order(torch.zeros(3))
