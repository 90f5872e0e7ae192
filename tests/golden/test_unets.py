"""ADM's and EDM's networks against the golden vectors, as loaded, as prepared for speed, and as scorers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smartfast.networks.unets import ADM, ADMOptions, Denoiser, edm_options, prepare
from smartfast.networks.unets.edm import UNetBlock
from smartfast.networks.unets.plan import Step
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.edm import EDMScorer
from smartfast.scorers.schedule import edm_schedule

GOLDEN_TOPIC = ("adm_unet", "edm_unet", "smart_loss")
DEVICE = torch.get_default_device()
TRAINING_ONLY = {"dropout", "conv_resample", "use_fp16"}


def adm_options(arguments: dict[str, Any]) -> ADMOptions:
    """Ours have attention resolutions in pixels."""
    arguments = {name: value for name, value in arguments.items() if name not in TRAINING_ONLY}
    arguments.setdefault("num_head_channels", None)
    factors = arguments.pop("attention_resolutions")
    return ADMOptions(attention_resolutions=[arguments["image_size"] // factor for factor in factors], **arguments)


def both_forms(network: nn.Module, dtype: torch.dtype) -> Iterator[nn.Module]:
    """The network as loaded and, after that is used, the same one prepared."""
    yield network
    yield prepare(network, dtype)


def test_unet(case: Any, compare: Callable[..., None]) -> None:
    checks = {
        "adm_unet": check_adm,
        "edm_unet": check_edm,
        "beta_schedule": check_betas,
        "edm_unet_block": check_block,
        "edm_sigma_table": check_sigmas,
        "edm_q_sample": check_noising,
        "smart_loss_adm": check_adm_scorer,
        "smart_loss_edm": check_edm_scorer,
    }
    if case.entry["kind"] not in checks:
        pytest.skip(f"kind {case.entry['kind']} of the golden vectors is not supported")
    checks[case.entry["kind"]](case, compare)
    assert set(compare.errors) == set(case.outputs)


def check_adm(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    network = ADM(adm_options(case.args["unet"])).to(case.dtype)
    network.load_state_dict(case.weights)
    x = t["x"].requires_grad_()
    for form in both_forms(network, case.dtype):
        output = form(x, t["t"], t.get("y"))
        compare("output", output)
        compare("dx", torch.autograd.grad(output, x, t["doutput"])[0])


def check_edm(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    network = Denoiser(edm_options("EDMPrecond", case.args["precond"])).to(case.dtype)
    network.load_state_dict(case.weights)
    x = t["x"].requires_grad_()
    for form in both_forms(network, case.dtype):
        denoised = form(x, t["sigma"], t.get("class_labels"), t.get("augment_labels"))
        compare("D", denoised)
        compare("dx", torch.autograd.grad(denoised, x, t["dD"])[0])


def check_block(case: Any, compare: Callable[..., None]) -> None:
    t, arguments = case.inputs, case.args["block"]
    resampling = "up" if arguments.get("up") else "down" if arguments.get("down") else "block0"
    heads = arguments.get("num_heads", arguments["out_channels"] // arguments.get("channels_per_head", 64))
    block = UNetBlock(
        Step(resampling, 0, arguments["in_channels"], arguments["out_channels"]),
        arguments["emb_channels"],
        heads=heads if arguments.get("attention") else 0,
        scale_shift=arguments["adaptive_scale"],
        gain=arguments.get("skip_scale", 1),
        eps=arguments.get("eps", 1e-5),
        taps=arguments.get("resample_filter", (1, 1)),
        project_resampled=arguments.get("resample_proj", False),
    ).to(case.dtype)
    block.load_state_dict(t["state_dict"])
    inputs = t["x"].requires_grad_(), t["emb"].requires_grad_()
    for form in both_forms(block, case.dtype):
        out = form(*inputs)
        compare("out", out)
        for name, gradient in zip(("dx", "demb"), torch.autograd.grad(out, inputs, t["dout"]), strict=True):
            compare(name, gradient)


def check_betas(case: Any, compare: Callable[..., None]) -> None:
    schedule = adm_schedule(case.args["schedule"], case.args["steps"])
    kept = schedule.alphas.square()
    compare("alphas_cumprod_f64", kept)
    compare("betas_f64", 1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]]))


def diffusion_schedule(arguments: dict[str, Any]) -> Any:
    arguments = dict(arguments)
    return edm_schedule(arguments.pop("num_timesteps"), **arguments)


def check_sigmas(case: Any, compare: Callable[..., None]) -> None:
    compare("sigmas_f64", diffusion_schedule(case.args).sigmas)


def check_noising(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    sigma = diffusion_schedule(case.args).sigmas.to(DEVICE)[t["t"]]
    compare("x_t", t["x"] + per_image(sigma.to(case.dtype)) * t["noise"])


def check_adm_scorer(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    network = ADM(adm_options(case.args["unet"])).to(case.dtype)
    network.load_state_dict(case.weights)
    schedule = adm_schedule(case.args["schedule"], case.args["steps"])
    scorer = ADMScorer(network, schedule, dtype=case.dtype, device=DEVICE)
    x, steps = t["x"].requires_grad_(), t["t"]
    x_t = per_image(scorer.alpha(steps)) * x + per_image(scorer.sigma(steps)) * t["eps"]
    prediction = scorer.network(x_t, steps, t.get("y"))
    distance = (prediction - t["eps"]).square().mean(dim=(1, 2, 3))
    compare("x_t", x_t)
    compare("eps_pred", prediction)
    compare("loss_per_sample", distance)
    compare("loss", distance.mean())
    compare("dx", torch.autograd.grad(distance.mean(), x)[0])


def check_edm_scorer(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    network = Denoiser(edm_options("EDMPrecond", case.args["precond"])).to(case.dtype)
    network.load_state_dict(case.weights)
    scorer = EDMScorer(network, diffusion_schedule(case.args["diffusion"]), dtype=case.dtype, device=DEVICE)
    x, steps = t["x"].requires_grad_(), t["t"]
    labels = t["class_labels"].argmax(dim=1) if "class_labels" in t else None
    denoised = scorer.network(x + per_image(scorer.sigma(steps)) * t["n"], steps, labels)
    for target, gradient in ((x, "dx"), (x.detach(), "dx_target_detached")):
        distance = (denoised - target).square()
        compare("loss", distance.mean())
        compare(gradient, torch.autograd.grad(distance.mean(), x, retain_graph=True)[0])
    compare("sigma", scorer.sigma(steps))
    compare("D", denoised)
    compare("loss_elementwise_sum_per_sample", distance.sum(dim=(1, 2, 3)))


def per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
