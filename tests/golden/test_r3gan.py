"""R3GAN's networks and losses against the original's."""

from typing import Any

import torch

from smartfast.networks.r3gan import Discriminator, Generator, R3GanOptions

GOLDEN_TOPIC = "r3gan_networks"


def network(kind: str, args: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network of a case, with its weights."""
    down = kind == "D"
    lists = [
        tuple(reversed(args[k]) if down else args[k])
        for k in ("WidthPerStage", "CardinalityPerStage", "BlocksPerStage")
    ]
    options = R3GanOptions(
        *lists,
        expansion=args["ExpansionFactor"],
        classes=args["c_dim"],
        embedding=args.get("ConditionEmbeddingDimension", 0),
        taps=args.get("ResamplingFilter", [1, 2, 1]),
    )
    made = Discriminator(options) if down else Generator(args["NoiseDimension"], options)
    made.to(next(iter(state_dict.values())).dtype)
    made.load_state_dict(state_dict)
    return made


def test_images_logits_and_gradients(case: Any, compare: Any) -> None:
    ((kind, args),) = case.args.items()
    t = case.inputs
    made = network(kind, args, t["state_dict"])
    if kind == "G":
        z = t["z"].requires_grad_()
        images = made(z, t.get("c"))
        compare("img", images)
        compare("dz", torch.autograd.grad(images, z, t["dimg"])[0])
    else:
        x = t["x"].requires_grad_()
        logits = made(x, t.get("c"))[:, 0]
        compare("logits", logits)
        compare("dx", torch.autograd.grad(logits, x, t["dlogits"])[0])
