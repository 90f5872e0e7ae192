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
    # The conversion from x0 or v needs x_t in full precision; an eps network takes it as it computes.
    dtype = scorer.dtype if scorer.parameterization == "eps" else torch.promote_types(scorer.dtype, torch.float32)
    x_t = noise_forward(
        images, scorer.alpha(t), scorer.sigma(t), seed=seed, stream=stream, purpose=purpose, dtype=dtype
    )
    prediction = scorer.predict_eps(x_t, t, labels)
    return denoise_distance(prediction, seed=seed, stream=stream, purpose=purpose)
