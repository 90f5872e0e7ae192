"""Score-matching regularity (SMaRt, arXiv 2311.18208): how far from its data a frozen diffusion model finds images."""

import torch
from torch import Tensor

from smartfast.kernels import denoise_distance, noise_forward
from smartfast.scorers.base import Scorer


def score_loss(
    scorer: Scorer, images: Tensor, labels: Tensor | None, t: Tensor, *, seed: int, stream: Tensor, purpose: int
) -> Tensor:
    """Mean over channels and pixels of (eps_theta(x_t, t, c) - eps)^2, x_t = alpha_t x + sigma_t eps (eq. 10 and 15).

    The gradient flows through the frozen network into `images`; not multiplied by lambda_score.

    Args:
        scorer: Frozen diffusion model.
        images: float [N, C, H, W] in [-1, 1].
        labels: Class indices, int64 [N], for a conditional scorer.
        t: Timesteps, int64 [N].
        seed: Key of the noise.
        stream: int64 [N], one stream of noise per sample.
        purpose: What the noise is for; the same (seed, stream, purpose) gives the same noise.

    Returns:
        float32 [N].
    """
    alpha, sigma = scorer.alpha(t), scorer.sigma(t)
    noise = dict(seed=seed, stream=stream, purpose=purpose)
    in_fp16 = scorer.dtype == torch.float16
    x_t = noise_forward(images, alpha, sigma, **noise, dtype=torch.float32 if in_fp16 else scorer.dtype)
    prediction = _predict_in_fp16(scorer, x_t, t, labels) if in_fp16 else scorer.network(x_t, t, labels)
    return denoise_distance(
        prediction, **noise, parameterization=scorer.parameterization, x=images, alpha=alpha, sigma=sigma
    )


def _predict_in_fp16(scorer: Scorer, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """`network` in float32 outside, whose backward stays within fp16's range inside.

    The gradient of a mean over a batch of images is about 1 / numel, which fp16 rounds to zero: it is multiplied by
    a power of two near numel on its way through the network.
    """
    scale = 2.0 ** max(x_t.numel(), 1).bit_length()
    return _scale_gradient(scorer.network(_scale_gradient(x_t, 1 / scale), t, labels).float(), scale)


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, with a gradient that is `factor` times as large."""
    fixed = x.detach()
    return fixed + (x - fixed) * factor
