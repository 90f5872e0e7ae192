"""A scorer known in closed form: a mixture of isotropic Gaussians in image space. For tests and toy data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from smartfast.core.tensors import check_floating
from smartfast.errors import UserError
from smartfast.scorers.base import Scorer, ScorerFormat
from smartfast.scorers.schedule import NoiseSchedule, Parameterization, check_betas, schedule_from_betas


class GaussianMixtureScorer(Scorer):
    """The exact predictions for images drawn from sum_k w_k N(mean_k, std_k^2 I).

    At timestep t component k has mean alpha_t mean_k and variance alpha_t^2 std_k^2 + sigma_t^2; the optimal eps
    is -sigma_t times the gradient of the log density of the mixture of those.

    Args:
        schedule: alpha_t and sigma_t of every timestep.
        means: [K, C, H, W].
        stds: [K].
        weights: [K], positive, of any sum; None = equal.
        classes: Class of each component; labels then select the components of their class, the null class, one after
            the last, selects all. None = no classes.
        parameterization: What `network` returns.
        dtype: Precision of the computation.
    """

    means: Tensor
    stds: Tensor
    log_weights: Tensor
    classes: Tensor

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Tensor,
        stds: Tensor,
        *,
        weights: Tensor | None = None,
        classes: Sequence[int] | None = None,
        parameterization: Parameterization = "eps",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        num_classes = max(classes) + 1 if classes else 0
        super().__init__(
            schedule,
            image_shape=(means.shape[1], means.shape[2], means.shape[3]),
            num_classes=num_classes,
            null_class=num_classes if classes else None,
            parameterization=parameterization,
            dtype=dtype,
        )
        weights = torch.ones(len(means)) if weights is None else weights
        self.register_buffer("means", means.to(dtype))
        self.register_buffer("stds", stds.to(dtype))
        self.register_buffer("log_weights", weights.to(dtype).log())
        self.register_buffer("classes", torch.tensor(classes or [0] * len(means)))
        self.freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        x_t = x_t.to(self.dtype)
        alpha = self.alpha(t).to(self.dtype)[:, None]
        sigma = self.sigma(t).to(self.dtype)[:, None]
        variance = (alpha * self.stds).square() + sigma.square()
        offset = x_t[:, None] - alpha[:, :, None, None, None] * self.means
        log_density = self.log_weights - self.means[0].numel() / 2 * variance.log()
        log_density = log_density - offset.square().sum(dim=(2, 3, 4)) / (2 * variance)
        if (known := self.known_classes(labels, t)) is not None:
            is_other = (self.classes != known[:, None]) & (known[:, None] != self.null_class)
            log_density = log_density.masked_fill(is_other, float("-inf"))
        share = log_density.softmax(dim=1)

        def weigh(factor: Tensor) -> Tensor:
            return ((share * factor)[:, :, None, None, None] * offset).sum(dim=1)

        if self.parameterization == "eps":
            return weigh(sigma / variance)
        x0 = torch.einsum("nk,kchw->nchw", share, self.means) + weigh(alpha * self.stds.square() / variance)
        if self.parameterization == "x0":
            return x0
        return alpha[:, :, None, None] * weigh(sigma / variance) - sigma[:, :, None, None] * x0


_NEEDED = {"betas", "means", "stds"}


def _names(path: Path) -> set[str]:
    """Of the tensors in a safetensors file, none where the path is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        return set()


def _is_mixture(path: Path) -> bool:
    return path.suffix == ".safetensors" and _NEEDED <= _names(path)


def _load(
    path: Path, *, where: str, device: torch.device | str, dtype: torch.dtype, null_class: int | None, **_: Any
) -> GaussianMixtureScorer:
    """attention is not read, nor any setting: there are none."""
    if missing := _NEEDED - _names(path):
        raise UserError(f"smart.scorer: {where!r} holds no {min(missing)}, expected safetensors: betas, means and stds")
    tensors = load_file(path)
    betas, means, stds = tensors["betas"], tensors["means"], tensors["stds"]
    optional = {name: tensors[name] for name in ("weights", "classes") if name in tensors}
    is_square = means.ndim == 4 and means.shape[2] == means.shape[3] and len(means)
    if not is_square or betas.ndim != 1 or any(t.shape != means.shape[:1] for t in (stds, *optional.values())):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise UserError(
            f"smart.scorer: {where!r} has {found}, expected means [K, C, R, R], stds [K], betas [T] and, if given, "
            "weights [K] and classes [K]"
        )
    try:
        check_floating({name: values for name, values in tensors.items() if name in _NEEDED})
    except ValueError as error:
        raise UserError(f"smart.scorer: {where!r}: {error}") from error
    _check_values(optional | {"stds": stds}, where)
    check_betas(betas, where)
    scorer = GaussianMixtureScorer(
        schedule_from_betas(betas, "betas"),
        means,
        stds,
        weights=optional.get("weights"),
        classes=optional["classes"].tolist() if "classes" in optional else None,
        dtype=dtype,
    )
    if null_class not in (None, scorer.null_class):
        raise UserError(f"smart.null_class is {null_class}, expected of {where} {scorer.null_class}")
    return scorer.to(device)


def _check_values(tensors: dict[str, Tensor], where: str) -> None:
    for name, values in tensors.items():
        if name == "classes":
            if values.dtype != torch.int64 or bool((values < 0).any()):
                raise UserError(f"smart.scorer: {where!r} has classes of {values.dtype}, expected int64 of at least 0")
        elif not bool((values > 0).all() & values.isfinite().all()):
            found = f"{values[~((values > 0) & values.isfinite())][0].item():g}"
            raise UserError(f"smart.scorer: {where!r} has {name} of {found}, expected positive numbers")


FORMAT = ScorerFormat(_is_mixture, _load)
"""A safetensors file with betas [T], means [K, C, R, R], stds [K] and, if given, weights [K] and classes int64 [K]."""
