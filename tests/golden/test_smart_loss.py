"""The score term against the golden vectors, with the predictions that they hold in place of a network.

The cases give the prediction of one network at one x_t, and the gradients of the loss. Here a network is that
prediction and, as its Jacobian, a matrix of rank 1 per image (for x0, beside the identity) that maps the right gradient
of the prediction to the right gradient of x_t: a loss with another weight, target or scale then has another value or
another gradient.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels import philox_normal
from smartfast.scorers import Scorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization, edm_schedule, schedule_from_betas
from smartfast.scorers.term import score_loss, score_loss_past_network

GOLDEN_TOPIC = "smart_loss"
KEY = {"seed": 5, "purpose": 8}


class Given(Scorer):
    """Predicts `prediction` [N, C, H, W]; the gradient `upstream` of it becomes `downstream` at x_t.

    For x0 `downstream` is what is left of it when `upstream` is taken away.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        prediction: Tensor,
        upstream: Tensor,
        downstream: Tensor,
    ) -> None:
        super().__init__(
            schedule,
            image_shape=tuple(prediction.shape[1:]),
            num_classes=0,
            parameterization=parameterization,
            dtype=prediction.dtype,
        )
        self.prediction, self.downstream = prediction, downstream
        self.along = upstream / upstream.square().sum(dim=(1, 2, 3), keepdim=True)
        self.to(prediction.device).freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        step = x_t - x_t.detach()
        prediction = self.prediction + self.along * (step * self.downstream).sum(dim=(1, 2, 3), keepdim=True)
        return prediction + step if self.parameterization == "x0" else prediction


def adm_schedule(name: str, steps: int) -> NoiseSchedule:
    """The schedules of guided-diffusion in float64 (Ho et al., and Nichol and Dhariwal, arXiv 2102.09672, eq. 17)."""
    if name == "linear":
        scale = 1000 / steps
        return schedule_from_betas(torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64), name)
    assert name == "cosine"
    level = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * torch.pi / 2
    kept = level.cos().square()
    return schedule_from_betas((1 - kept[1:] / kept[:-1]).clamp(max=0.999), name)


def per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


@pytest.mark.usefixtures("implementation")
def test_smart_loss(case: Any, compare: Callable[..., None]) -> None:
    kinds = {"smart_loss_adm": check_eps, "smart_loss_edm": check_x0}
    if case.entry["kind"] not in kinds:
        pytest.skip(f"kind {case.entry['kind']} of the golden vectors is not supported")
    kinds[case.entry["kind"]](case, compare)
    assert set(compare.errors) | {"eps_pred"} >= set(case.outputs)


def check_eps(case: Any, compare: Callable[..., None]) -> None:
    t, given, steps = case.inputs, case.outputs, case.inputs["t"]
    stream = torch.arange(len(steps), device=steps.device)
    schedule = adm_schedule(case.args["schedule"], case.args["steps"])
    # The term draws its own noise: the network makes the same error about that as about the case's.
    error = given["eps_pred"] - t["eps"]
    drawn = philox_normal(KEY["seed"], stream, error[0].numel(), KEY["purpose"]).reshape(error.shape)
    alpha = per_image(schedule.alphas.to(steps.device)[steps]).to(case.dtype)
    scorer = Given(schedule, "eps", drawn + error, 2 / error.numel() * error, given["dx"] / alpha)
    compare("x_t", per_image(scorer.alpha(steps)) * t["x"] + per_image(scorer.sigma(steps)) * t["eps"])

    x = t["x"].requires_grad_()
    distance = score_loss(scorer, x, None, steps, stream=stream, **KEY)
    compare("loss_per_sample", distance.to(case.dtype))
    compare("loss", distance.mean())
    compare("dx", torch.autograd.grad(distance.mean(), x)[0])


def check_x0(case: Any, compare: Callable[..., None]) -> None:
    t, given, steps = case.inputs, case.outputs, case.inputs["t"]
    stream = torch.arange(len(steps), device=steps.device)
    diffusion = {name: value for name, value in case.args["diffusion"].items() if name != "num_timesteps"}
    schedule = edm_schedule(case.args["diffusion"]["num_timesteps"], **diffusion)
    # D is x but for its last digits; the part of dx that goes through the target has all digits of D - x.
    error = t["x"].numel() / 2 * (given["dx_target_detached"] - given["dx"])
    prediction = t["x"] + error
    scorer = Given(schedule, "x0", prediction, 2 / error.numel() * error, given["dx"])
    compare("sigma", scorer.sigma(steps))
    compare("D", prediction)

    x = t["x"].requires_grad_()
    distance = score_loss(scorer, x, None, steps, stream=stream, **KEY)
    compare("loss_elementwise_sum_per_sample", distance.to(case.dtype) * error[0].numel())
    compare("loss", distance.mean())
    compare("dx", torch.autograd.grad(distance.mean(), x)[0])
    past = score_loss_past_network(scorer, x, None, steps, stream=stream, **KEY).mean()
    compare("loss", past)
    compare("dx_target_detached", given["dx"] - torch.autograd.grad(past, x)[0])
