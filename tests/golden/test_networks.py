"""Generator, discriminator and losses against the golden vectors."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.families.adversarial import discriminator_loss, generator_loss, r1_penalty
from smartfast.families.stylegan2.latents import Latents
from smartfast.families.stylegan2.phases import path_length_penalty, style_latents
from smartfast.networks.stylegan2 import Discriminator, Generator

DEVICE = torch.get_default_device().type
GOLDEN_TOPIC = ("stylegan2_generator", "stylegan2_discriminator", "stylegan2_losses")

RENAMED = {"img_resolution": "resolution", "img_channels": "channels", "activation": "act"}
IGNORED = {"num_fp16_res", "w_avg_beta", "fp16_channels_last", "freeze_layers", "fused_modconv"}
"""Arguments of the reference that choose precision, order of computation or training, not the function."""

INTERPRETER_IS_SLOW = "minutes in Triton's interpreter: SMARTFAST_TEST_SLOW=1 runs it"
"""All cases pass there too; two are quick enough for every run."""


def mapping_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = {"num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier", "activation": "mapping_act"}
    return {names.get(name, name): value for name, value in kwargs.items() if name not in IGNORED}


def own_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of our networks for those of the reference's constructors."""
    arguments: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in ("synthesis_kwargs", "block_kwargs", "epilogue_kwargs"):
            arguments |= own_arguments(value)
        elif name == "mapping_kwargs":
            arguments |= mapping_arguments(value)
        elif name == "mbstd_group_size":
            arguments["mbstd_group"] = value
        elif name == "mbstd_num_channels":
            arguments["mbstd_channels"] = value
        elif name not in IGNORED:
            arguments[RENAMED.get(name, name)] = value
    return arguments


def build(network: type, kwargs: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype) -> torch.nn.Module:
    module = network(**own_arguments(kwargs)).to(dtype)
    module.load_state_dict(state)
    return module


def labels(t: dict[str, Any], name: str) -> Tensor | None:
    return t.get(name)


def test_network(case: Any, compare: Callable[..., None], implementation: str) -> None:
    is_slow = case.dtype == torch.float64 or case.entry["topic"] == "stylegan2_losses" or "16_cond" not in case.name
    if implementation == "triton" and is_slow and DEVICE == "cpu" and "SMARTFAST_TEST_SLOW" not in os.environ:
        pytest.skip(INTERPRETER_IS_SLOW)
    match case.entry["topic"]:
        case "stylegan2_generator":
            check_generator(case, compare)
        case "stylegan2_discriminator":
            check_discriminator(case, compare)
        case "stylegan2_losses":
            check_losses(case, compare)
    assert {name.split("/")[0] for name in compare.errors} == set(case.outputs)


def check_generator(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    g = build(Generator, case.args["G"], t["state_dict"], case.dtype)
    z = t["z"].requires_grad_()
    for run in case.args["runs"]:
        ws = g.mapping(z, labels(t, "c"), run["truncation_psi"], run.get("truncation_cutoff"))
        images = g.synthesis(ws, run["noise_mode"])
        compare(f"ws_{run['name']}", ws)
        compare(f"img_{run['name']}", images)
    images = g(z, labels(t, "c"), noise="const")
    compare("dz", torch.autograd.grad(images, z, t["dimg"])[0])


def check_discriminator(case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    d = build(Discriminator, case.args["D"], t["state_dict"], case.dtype)
    images = t["img"].requires_grad_()
    logits = d(images, labels(t, "c"))
    compare("logits", logits)
    compare("dimg", torch.autograd.grad(logits, images, t["dlogits"])[0])


def check_losses(case: Any, compare: Callable[..., None]) -> None:
    t, options = case.inputs, case.args["loss"]
    g = build(Generator, case.args["G"], t["G/state_dict"], case.dtype)
    d = build(Discriminator, case.args["D"], t["D/state_dict"], case.dtype)
    gen_c, real_c = labels(t, "gen_c"), labels(t, "real_c")

    def compare_loss(phase: str, loss: Tensor, network: torch.nn.Module) -> None:
        compare(f"loss_{phase}", loss)
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        compare(f"grad_{phase}", dict(zip(names, gradients, strict=True)))

    ws, w_mean = style_latents(g, Latents(t["z"], None, None, None, gen_c, "const"))
    fakes = g.synthesis(ws, "const")
    fake_logits = d(fakes, gen_c)
    compare("gen_logits", fake_logits)
    compare_loss("Gmain", generator_loss(fake_logits).mean(), g)
    beta = case.args["G"].get("mapping_kwargs", {}).get("w_avg_beta", 0.995)
    compare("w_avg_after_Gmain", w_mean.lerp(g.mapping.w_avg, beta))

    part = slice(len(t["z"]) // options["pl_batch_shrink"])
    latents = Latents(t["z"][part], None, None, None, None if gen_c is None else gen_c[part], "const")
    penalty, mean = path_length_penalty(
        g,
        style_latents(g, latents)[0],
        "const",
        t["pl_noise"],
        t["pl_mean"],
        decay=options["pl_decay"],
        mean_over_processes=lambda value: value,
    )
    compare("pl_penalty", penalty)
    compare("pl_mean_new", mean)
    compare_loss("Gpl", penalty.mean() * options["pl_weight"], g)

    loss_fake, loss_real = discriminator_loss(d(fakes.detach(), gen_c), d(t["real_img"], real_c))
    compare_loss("Dgen", loss_fake.mean(), d)
    compare("real_logits", d(t["real_img"], real_c))
    compare_loss("Dreal", loss_real.mean(), d)
    penalty = r1_penalty(d, t["real_img"].detach().requires_grad_(), real_c)
    compare("r1_penalty", penalty)
    compare_loss("Dr1", penalty.mean() * (options["r1_gamma"] / 2), d)
