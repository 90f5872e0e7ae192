"""Aurora's generator against the original's."""

from typing import Any

import torch

from smartfast.interop.aurora import options_of, own_tensors
from smartfast.networks.aurora import AuroraOptions, Generator

GOLDEN_TOPIC = "aurora_generator"


def test_original(case: Any, compare: Any) -> None:
    kwargs = case.args["generator"]
    g = Generator(AuroraOptions(**options_of(kwargs))).to(case.dtype)
    g.load_state_dict(own_tensors(case.weights))
    t = case.inputs
    z = t["z"].requires_grad_()

    w = g.mapping(z, t["label"])
    ws = g.spread(w)
    images, routing = g.synthesis(ws)
    compare("w", w)
    compare("wp", ws)
    compare("image", images)
    compare("dz", torch.autograd.grad(images, z, t["dimage"])[0])
    loss = torch.zeros([]) if routing is None else 0.001 * (routing.balance + routing.z)
    compare("moe_loss", loss)
    if "trunc_psi" in case.args:
        look = case.args["trunc_psi"], case.args["trunc_layers"]
        compare("wp_trunc", g.latents(z, t["label"], *look))
        compare("image_trunc", g(z, t["label"], *look))
