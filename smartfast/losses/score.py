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
    # An eps network takes x_t as it computes; the conversion from x0 or v, and fp16's gradient, need full precision.
    direct = scorer.parameterization == "eps" and scorer.dtype != torch.float16
    dtype = scorer.dtype if direct else torch.promote_types(scorer.dtype, torch.float32)
    x_t = noise_forward(
        images, scorer.alpha(t), scorer.sigma(t), seed=seed, stream=stream, purpose=purpose, dtype=dtype
    )
    if scorer.dtype == torch.float16:
        prediction = _predict_eps_in_fp16(scorer, x_t, t, labels)
    else:
        prediction = scorer.predict_eps(x_t, t, labels)
    return denoise_distance(prediction, seed=seed, stream=stream, purpose=purpose)


def _predict_eps_in_fp16(scorer: Scorer, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """`predict_eps` whose backward stays within fp16's range.

    The gradient of a mean over a batch of images is about 1 / numel, which fp16 rounds to zero: it is multiplied by
    a power of two near numel on its way through the network.
    """
    scale = 2.0 ** max(x_t.numel(), 1).bit_length()
    return _scale_gradient(scorer.predict_eps(_scale_gradient(x_t, 1 / scale), t, labels), scale)


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, with a gradient that is `factor` times as large."""
    fixed = x.detach()
    return fixed + (x - fixed) * factor
