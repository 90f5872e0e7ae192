"""BigGAN's networks, losses and one whole iteration against the original's."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.config.families import BigGanLoss
from smartfast.core.draws import Purpose, one_hot
from smartfast.engine.adam import AdamSettings
from smartfast.engine.averages import AveragedNetwork
from smartfast.engine.flat import MovingBuffers
from smartfast.engine.phase import Phase, PhaseSpec, TrainedNetwork, accumulate, update, with_gradients
from smartfast.engine.schedules import DeviceScalars
from smartfast.engine.statistics import Statistics
from smartfast.families.adversarial import discriminator_loss, generator_loss, hinge_loss, orthogonal_penalty
from smartfast.families.biggan.phases import BigGanPhases
from smartfast.families.rounds import Round
from smartfast.networks.biggan import BigGanOptions, Discriminator, Generator
from smartfast.networks.biggan.spectral import SNConv, SNLinear, SNTable, SpectralNorm, SpectralOptions

GOLDEN_TOPIC = ("biggan", "biggan_losses", "biggan_step")
SPECTRAL: dict[str, Callable[[Tensor, SpectralOptions], SpectralNorm]] = {
    "SNConv2d": lambda w, options: SNConv(w.shape[1], w.shape[0], w.shape[2], options, bias=False),
    "SNLinear": lambda w, options: SNLinear(w.shape[1], w.shape[0], options, bias=False),
    "SNEmbedding": lambda w, options: SNTable(*w.shape, options),
}


def options_of(kind: str, args: dict[str, Any]) -> BigGanOptions:
    attention = [int(resolution) for resolution in args[f"{kind}_attn"].split("_") if resolution != "0"]
    shared = args.get("G_shared", True) and kind == "G"
    return BigGanOptions(
        args["resolution"],
        args[f"{kind}_ch"],
        args["n_classes"],
        attention=attention,
        wide=args.get("D_wide", True),
        shared_dim=(args.get("shared_dim") or args["dim_z"]) if shared else 0,
        hierarchical=args.get("hier", False),
        spectral_eps=args.get("SN_eps", 1e-12),
        spectral_vectors=args.get(f"num_{kind}_SVs", 1),
        spectral_iterations=args.get(f"num_{kind}_SV_itrs", 1),
        norm_eps=args.get("BN_eps", 1e-5),
        own_norm=args.get("mybn", False),
    )


def network(kind: str, args: dict[str, Any], state_dict: dict[str, Tensor]) -> Any:
    options = options_of(kind, args)
    if kind == "D":
        made: nn.Module = Discriminator(options)
    else:
        slots = 4 if options.hierarchical else 1
        made = Generator(args["dim_z"] // slots * slots, options)
    made.to(next(iter(state_dict.values())).dtype)
    made.load_state_dict(state_dict)
    return made


def vectors(labels: Tensor, args: dict[str, Any]) -> Tensor:
    return F.one_hot(labels, args["n_classes"]).float()


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def test_original(case: Any, compare: Any) -> None:
    checks = {"biggan": compare_network, "biggan_step": compare_step}
    of_losses = {"biggan_losses": compare_losses, "biggan_ortho": compare_ortho}
    kind = case.entry["kind"]
    checks.get(case.entry["topic"], of_losses.get(kind, compare_spectral))(case, compare)


def compare_network(case: Any, compare: Any) -> None:
    kind = "G" if "G" in case.args else "D"
    args, t = case.args[kind], case.inputs
    made = network(kind, args, case.weights).train(case.args["mode"] == "train")
    before = buffers(made)
    x = t["z" if kind == "G" else "x"].requires_grad_()
    found = made(x, vectors(t["y"], args))
    compare(*(("image", found) if kind == "G" else ("logits", found)))
    (dx,) = torch.autograd.grad(found, x, t["dimage" if kind == "G" else "dlogits"])
    compare("dz" if kind == "G" else "dx", dx, has_kinks=True)
    if made.training:
        compare("buffers_after", buffers(made))
    else:
        assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())


def compare_losses(case: Any, compare: Any) -> None:
    fake, real = (case.inputs[name].requires_grad_() for name in ("dis_fake", "dis_real"))
    loss_fake, loss_real = (loss.mean() for loss in hinge_loss(fake, real))
    compare("loss_hinge_fake", loss_fake)
    compare("loss_hinge_real", loss_real)
    d_fake, d_real = torch.autograd.grad(loss_fake + loss_real, [fake, real])
    compare("d_fake", d_fake)
    compare("d_real", d_real)
    compare("loss_hinge_gen", -fake.mean())
    compare("d_fake_gen", torch.autograd.grad(-fake.mean(), fake)[0])
    logistic_fake, logistic_real = (loss.mean() for loss in discriminator_loss(fake, real))
    compare("loss_dcgan_fake", logistic_fake)
    compare("loss_dcgan_real", logistic_real)
    compare("loss_dcgan_gen", generator_loss(fake).mean())


def compare_ortho(case: Any, compare: Any) -> None:
    weight, gradient = case.inputs["weight"].requires_grad_(), case.inputs["grad"]
    for output, with_lengths in (("grad_after", False), ("grad_after_default", True)):
        penalty = orthogonal_penalty(weight, with_lengths=with_lengths)
        compare(output, gradient + case.args["strength"] * torch.autograd.grad(penalty, weight)[0])


def compare_spectral(case: Any, compare: Any) -> None:
    args, t = case.args, case.inputs
    options = SpectralOptions(args["eps"], args["num_svs"], args["num_itrs"])
    layer = SPECTRAL[args["layer"]](t["weight"], options).to(t["weight"]).train(args["training"])
    given = {name: value for name, value in t.items() if name != "dweight_normalised"}
    layer.load_state_dict(given, strict=False)
    weight = layer.normalised()
    compare("weight_normalised", weight)
    compare("dweight", torch.autograd.grad(weight, layer.weight, t["dweight_normalised"])[0])
    for name, value in buffers(layer).items():
        if f"{name}_after" in case.outputs:
            compare(f"{name}_after", value)


class Given:
    """Draws given latents and labels, one batch after another."""

    def __init__(self, g: Generator, z: Tensor, y: Tensor) -> None:
        self.g, self.batches = g, list(zip(z, y, strict=True))

    def draw(self, purpose: Purpose, numbers: Tensor, labels: None) -> tuple[Tensor, Tensor]:
        z, y = self.batches.pop(0)
        return self.g(z, one_hot(y, self.g.options.classes)), y


class Step:
    """One call of the original's training function, by what a run has: phases, and rounds of their images."""

    def __init__(self, case: Any) -> None:
        self.case, self.train, t = case, case.args["train"], case.inputs
        self.g, self.d = (network(kind, case.args[kind], t[f"{kind}/state_dict"]).train() for kind in "GD")
        loss = BigGanLoss(split_d=self.train["split_D"], ortho_g=self.train["G_ortho"], ortho_d=self.train["D_ortho"])
        sampler: Any = Given(self.g, t["z"], t["y"])
        self.of = BigGanPhases(self.g, self.d, sampler, loss, view=Unchanged(), score=None)  # type: ignore[arg-type]
        size = self.train["batch_size"]
        chunks = zip(t["x"].split(size), t["x_labels"].split(size), strict=True)
        self.rounds = [Round(torch.arange(size), x.requires_grad_(), y) for x, y in chunks]

    def turns(self, network: str) -> list[list[Round]]:
        """The rounds of each step of a network; the generator's show it no images."""
        if network == "g":
            return [self.rounds[: self.train["num_G_accumulations"]]]
        per_step = self.train["num_D_accumulations"]
        return [self.rounds[start : start + per_step] for start in range(0, len(self.rounds), per_step)]


class Unchanged:
    """No augmentation."""

    def __call__(self, images: Tensor, stream: Tensor, purpose: Purpose) -> Tensor:
        return images

    def statistics(self, real_logits: Tensor) -> dict[str, Tensor]:
        return {}


def compare_step(case: Any, compare: Any) -> None:
    (compare_step_in_the_engine if case.dtype == torch.float32 else compare_step_alone)(case, compare)


def compare_step_alone(case: Any, compare: Any) -> None:
    """With PyTorch's Adam and loops over parameters, in any precision."""
    step, train = Step(case), case.args["train"]
    before = {kind: copy.deepcopy(getattr(step, kind.lower()).state_dict()) for kind in "GD"}
    count = 0
    for kind, name, loss_function in (("D", "d", step.of.d_main), ("G", "g", step.of.g_main)):
        module = getattr(step, name)
        betas = train[f"{kind}_B1"], train[f"{kind}_B2"]
        adam = torch.optim.Adam(module.parameters(), train[f"{kind}_lr"], betas, train["adam_eps"])
        for turn, rounds in enumerate(step.turns(name)):
            adam.zero_grad()
            for batch in rounds:
                loss, statistics = loss_function(batch)
                inputs = list(module.parameters())
                for parameter, gradient in zip(inputs, torch.autograd.grad(loss, inputs), strict=True):
                    gradient = gradient / len(rounds)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                if kind == "D":
                    compare(f"loss_D_real_{count}", statistics["loss/d_real"])
                    compare(f"loss_D_fake_{count}", statistics["loss/d_fake"])
                    count += 1
            gradients = {n: p.grad for n, p in module.named_parameters()}
            compare("grad_G" if kind == "G" else f"grad_D_step{turn}", gradients)
            adam.step()
    average = {n: b.lerp(a, 1 - train["ema_decay"]) for (n, a), b in zip_states(step.g, before["G"])}
    compare_after(compare, step, before, average)


def zip_states(module: nn.Module, before: dict[str, Tensor]) -> Any:
    return zip(module.state_dict().items(), before.values(), strict=True)


def compare_step_in_the_engine(case: Any, compare: Any) -> None:
    """With flat parameters, pending buffers, fused Adam and the average of a run."""
    step, train = Step(case), case.args["train"]
    before = {kind: copy.deepcopy(getattr(step, kind.lower()).state_dict()) for kind in "GD"}
    moving = MovingBuffers({"g": step.g, "d": step.d}, step.rounds[0].images.device)
    scalars = DeviceScalars(step.rounds[0].images.device)
    networks = {}
    for kind, name in (("D", "d"), ("G", "g")):
        settings = AdamSettings(
            lambda images, lr=train[f"{kind}_lr"]: lr, (train[f"{kind}_B1"], train[f"{kind}_B2"]), train["adam_eps"]
        )
        networks[name] = TrainedNetwork(getattr(step, name), settings, scalars, carried=1, moving=moving)
    ema = AveragedNetwork(networks["g"], torch.tensor(1 - train["ema_decay"]))
    for name, loss in (("d", step.of.d_main), ("g", step.of.g_main)):
        spec, trained = PhaseSpec(name, name, loss), networks[name]
        phase = Phase(spec, trained, with_gradients(spec, trained.parameters.parameters))
        for turn, rounds in enumerate(step.turns(name)):
            accumulate(phase, rounds, Statistics())
            found = dict(zip(trained.parameters.names, trained.gradient_views, strict=True))
            compare("grad_G" if name == "g" else f"grad_D_step{turn}", found)
            update(phase, Statistics())
    ema.move()
    compare_after(compare, step, before, ema.module.state_dict())


def compare_after(compare: Any, step: Step, before: dict[str, dict[str, Tensor]], average: dict[str, Tensor]) -> None:
    for kind, module in (("G", step.g), ("D", step.d)):
        compare(f"{kind}_update", {n: a - b for (n, a), b in zip_states(module, before[kind])})
        compare(f"{kind}_buffers_after", buffers(module))
    compare("G_ema_update", {n: average[n] - value for n, value in before["G"].items()})
