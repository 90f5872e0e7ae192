"""Score-matching regularity (SMaRt, arXiv 2311.18208): how far from its data a frozen diffusion model finds images."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.kernels import denoise_distance, denoise_distance_and_gradient, noise_forward
from smartfast.scorers.base import Distance, Scorer


@dataclass(frozen=True)
class ScoreTerm:
    """The score term of a run: `term(images, labels, t, stream)` is the distance of each image, without its weight.

    scorer: Frozen diffusion model, of the images' resolution divided by `downscale`.
    seed, purpose: Of the noise, see `score_loss`.
    through_network: False takes `score_loss_past_network`, whose network runs forward only.
    downscale: Factor by which images are reduced (mean of downscale x downscale pixels) before they get noise.
    distance: Which distance, see `Scorer.distance_weight`.
    loss_scale: Factor that the gradient already has when it reaches the scorer, see `score_loss`.
    """

    scorer: Scorer
    seed: int
    purpose: int
    through_network: bool = True
    downscale: int = 1
    distance: Distance = "plain"
    loss_scale: float = 1.0

    def __call__(self, images: Tensor, labels: Tensor | None, t: Tensor, stream: Tensor) -> Tensor:
        """float32 [N]; images float [N, C, H, W] in [-1, 1], other arguments as in `score_loss`."""
        if self.downscale > 1:
            images = F.avg_pool2d(images, self.downscale)
        options: dict[str, Any] = dict(seed=self.seed, stream=stream, purpose=self.purpose, distance=self.distance)
        if not self.through_network:
            return score_loss_past_network(self.scorer, images, labels, t, **options)
        return score_loss(self.scorer, images, labels, t, loss_scale=self.loss_scale, **options)

    def in_eps(self, distance: Tensor, t: Tensor) -> Tensor:
        """The squared error in eps [N] that distances [N] at timesteps int64 [N] amount to; finding no noise has 1."""
        weight = self.scorer.distance_weight
        return distance * weight(t, "eps") / weight(t, self.distance)


def score_loss(
    scorer: Scorer,
    images: Tensor,
    labels: Tensor | None,
    t: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int,
    distance: Distance = "plain",
    loss_scale: float = 1.0,
) -> Tensor:
    """Mean over channels and pixels of (eps_theta(x_t, t, c) - eps)^2, x_t = alpha_t x + sigma_t eps (eq. 10 and 15).

    Of a network that predicts x0 or v, the mean of (D(x_t, t, c) - x)^2 or (v_theta(x_t, t, c) - v)^2, times
    `Scorer.distance_weight`. The gradient flows through the frozen network into `images`, and past it through the
    target x or v = alpha_t eps - sigma_t x; not multiplied by lambda_score.

    Args:
        scorer: Frozen diffusion model.
        images: float [N, C, H, W] in [-1, 1].
        labels: Class indices, int64 [N], for a conditional scorer.
        t: Timesteps, int64 [N].
        seed: Key of the noise.
        stream: int64 [N], one stream of noise per sample.
        purpose: What the noise is for; the same (seed, stream, purpose) gives the same noise.
        distance: The weight, see `Scorer.distance_weight`.
        loss_scale: Factor that the gradient already has when it comes back to the distance, because the images were
            made in half precision; a half-precision network takes it into account.

    Returns:
        float32 [N].
    """
    alpha, sigma = scorer.alpha(t), scorer.sigma(t)
    dtype = _input_dtype(scorer)
    x_t = noise_forward(images, alpha, sigma, seed=seed, stream=stream, purpose=purpose, dtype=dtype)
    weight = scorer.distance_weight(t, distance)
    if scorer.dtype == torch.float16:
        # Where a prediction is less certain than eps is, its own error is about 1; a weight of 0 has no gradient.
        gain = scorer.distance_weight(t, "eps").sqrt().clamp(min=1) / (weight.clamp(min=1e-12) * loss_scale)
        prediction = _predict_in_fp16(scorer, x_t, t, labels, gain)
    else:
        prediction = scorer.network(x_t, t, labels)
    return denoise_distance(
        prediction,
        seed=seed,
        stream=stream,
        purpose=purpose,
        weight=weight,
        parameterization=scorer.parameterization,
        x=images,
        alpha=alpha,
        sigma=sigma,
        in_eps=False,
    )


def score_loss_past_network(
    scorer: Scorer,
    images: Tensor,
    labels: Tensor | None,
    t: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int,
    distance: Distance = "plain",
) -> Tensor:
    """The value of `score_loss`, with a gradient that takes the network's estimate of the clean image as constant.

    With x0 = (x_t - sigma eps_theta) / alpha held fixed, the distance in eps is (alpha / sigma)^2 mean((x0 - x)^2),
    whose gradient for an image is

        2 / numel * (eps_theta - eps) * alpha / sigma

    and that of mean((x0 - x)^2) is 2 / numel * (x - x0): the residual itself, as in score distillation (Poole et al.,
    DreamFusion, arXiv 2209.14988), instead of its product with the network's Jacobian. The network runs forward only
    and saves no activations. Arguments and result as in `score_loss`; the gradient has no derivative.
    """
    alpha, sigma = scorer.alpha(t), scorer.sigma(t)
    weight = scorer.distance_weight(t, distance)
    # The image's gradient over the prediction's.
    factors = {"eps": alpha / sigma, "x0": -torch.ones_like(alpha), "v": 1 / sigma}
    factor = factors[scorer.parameterization]
    # The gradient in half precision is about the error itself: 1 / numel would round to 0, a large weight overflow.
    scale = 2.0 ** max(images[:1].numel(), 1).bit_length()
    with torch.no_grad():
        dtype = _input_dtype(scorer)
        x_t = noise_forward(images, alpha, sigma, seed=seed, stream=stream, purpose=purpose, dtype=dtype)
        error, gradient = denoise_distance_and_gradient(
            scorer.network(x_t, t, labels),
            seed=seed,
            stream=stream,
            purpose=purpose,
            weight=torch.full_like(weight, scale),
            parameterization=scorer.parameterization,
            x=images,
            alpha=alpha,
            sigma=sigma,
            in_eps=False,
            overwrite=True,
        )
        gradient = gradient * (factor * weight / scale)[:, None, None, None]
    return error * (weight / scale) + ((images - images.detach()) * gradient).sum(dim=(1, 2, 3))


def _input_dtype(scorer: Scorer) -> torch.dtype:
    """That of x_t: the scorer rounds, and knows how not to lose the noise when sigma is small."""
    return torch.promote_types(scorer.dtype, torch.float32)


def _predict_in_fp16(scorer: Scorer, x_t: Tensor, t: Tensor, labels: Tensor | None, gain: Tensor) -> Tensor:
    """`network` in float32 outside, whose backward stays within fp16's range inside.

    The gradient of a mean over a batch of images is about 1 / numel, which fp16 rounds to zero: it is multiplied by
    a power of two near numel on its way through the network, and by `gain` [N], which makes it about the error in eps:
    a prediction's own error, and with it the gradient, is far smaller where sigma is, and a weight far larger than 1.
    """
    scale = 2.0 ** max(x_t.numel(), 1).bit_length() * gain[:, None, None, None]
    return _scale_gradient(scorer.network(_scale_gradient(x_t, 1 / scale), t, labels).float(), scale)


def _scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """x itself [N, C, H, W], with a gradient that is `factor` [N, 1, 1, 1] times as large."""
    fixed = x.detach()
    return fixed + (x - fixed) * factor
