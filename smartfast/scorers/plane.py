"""The exact scorers of distributions in the plane: `plane:ring` and its like."""

from pathlib import Path
from typing import Any

import torch

from smartfast.core.plane import nodes_of, shape_named
from smartfast.errors import UserError
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.base import ScorerFormat
from smartfast.scorers.schedule import schedule_from_betas

KIND = "plane"


def _load(
    path: Path, *, where: str, device: torch.device | str, dtype: torch.dtype, null_class: int | None, **_: Any
) -> GaussianMixtureScorer:
    """The posterior mean over the distribution's nodes, under DDPM's linear schedule of 1000 timesteps."""
    shape = shape_named(str(path), "smart.scorer")
    if null_class is not None:
        raise UserError(f"smart.null_class is {null_class}, expected none: {where} has no classes")
    nodes, weights = nodes_of(shape)
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    stds = torch.full((len(nodes),), shape.std, dtype=torch.float64)
    return GaussianMixtureScorer(schedule, nodes[:, :, None, None], stds, weights=weights, dtype=dtype).to(device)


FORMAT = ScorerFormat(lambda path: False, _load)
"""No file: `plane:NAME` says which distribution."""
