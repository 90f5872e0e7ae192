"""The distance between a noise prediction and the noise that `noise_forward` added, which is drawn again, not stored.

    d[n] = weight[n] * mean over c, h, w of (prediction[n] - eps[n])^2

Gradients flow to the prediction and the weight, to any order.
"""

from torch import Tensor

from smartfast.kernels import reference
from smartfast.kernels.noise_forward import check_noise, check_per_image
from smartfast.kernels.selection import dispatch, register


def denoise_distance(
    prediction: Tensor,
    *,
    seed: int,
    stream: Tensor,
    purpose: int = 0,
    weight: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Mean squared error of each noise prediction (SMaRt, arXiv 2311.18208, eq. 10).

    Args:
        prediction: [N, C, H, W], any floating dtype; half precision is computed in float32.
        seed, stream, purpose: Those of the `noise_forward` call.
        weight: float32 [N] or None for 1.
        impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        float32 [N], float64 if the prediction is.

    Raises:
        ValueError: Shapes or dtypes that do not fit.
    """
    check_noise(prediction, "prediction", stream)
    if weight is not None:
        check_per_image(weight, "weight", prediction)
    return dispatch("denoise_distance", prediction.device, prediction, seed, stream, purpose, weight, impl=impl)


register("denoise_distance", "reference", reference.denoise_distance)
