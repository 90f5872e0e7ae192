"""R3GAN's networks and losses against the original's."""

from typing import Any

import torch

from smartfast.families.adversarial import relativistic_loss, squared_gradient
from smartfast.networks.r3gan import Discriminator, Generator, R3GanOptions

GOLDEN_TOPIC = ("r3gan_networks", "r3gan_losses")


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


def test_original(case: Any, compare: Any) -> None:
    (compare_networks if case.entry["topic"] == "r3gan_networks" else compare_losses)(case, compare)


def compare_networks(case: Any, compare: Any) -> None:
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


def gradients(loss: torch.Tensor, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def compare_losses(case: Any, compare: Any) -> None:
    t, gamma = case.inputs, case.args["gamma"]
    g, d = (network(kind, case.args[kind], t[f"{kind}/state_dict"]) for kind in ("G", "D"))
    c = t.get("c")
    reals = t["real_img"].requires_grad_()

    fakes = g(t["z"], c).detach().requires_grad_()
    real, fake = d(reals, c), d(fakes, c)
    r1, r2 = squared_gradient(real, reals), squared_gradient(fake, fakes)
    adversarial = relativistic_loss(real, fake)[:, 0]
    loss = (adversarial + gamma / 2 * (r1 + r2)).mean()
    for name, value in dict(loss_D=loss, adversarial_D=adversarial, r1_penalty=r1, r2_penalty=r2).items():
        compare(name, value)
    compare("relativistic_logits_D", (real - fake)[:, 0])
    compare("grad_D", gradients(loss, d))

    fake = d(g(t["z"], c), c)
    adversarial = relativistic_loss(fake, d(reals, c))[:, 0]
    compare("adversarial_G", adversarial)
    compare("loss_G", adversarial.mean())
    compare("grad_G", gradients(adversarial.mean(), g))
