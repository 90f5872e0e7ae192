"""Quality metrics on samples of the averaged generator."""

from smartfast.metrics.evaluation import evaluate
from smartfast.metrics.extractors import MetricUnavailable, check_metrics

__all__ = ["MetricUnavailable", "check_metrics", "evaluate"]
