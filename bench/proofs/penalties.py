"""R3GAN's penalties by finite differences against the exact ones: gradients of the discriminator, and FLOPs; no GPU.

    python -m bench.proofs.penalties [--warm_up 200] [--batches 2] [--directions 8]

Trains an R3GAN of the digits for a few iterations with exact penalties, then takes the gradient of R1 and of R2 for the
discriminator's parameters on the same images, fakes and augmentation: exactly in float64, which all is compared with,
and by differences of logits (`loss.penalty finite_difference`) with several steps, directions and precisions. Counts
the FLOPs of the phase d_main without executing it. Writes bench/results/penalties.md and .json.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from bench.base.machine import provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.count.counter import count_eager
from bench.report.table import markdown_table
from smartfast.config.families import R3GanLoss
from smartfast.config.parse import parse_config
from smartfast.data import open_dataset
from smartfast.families.adversarial import relativistic_loss
from smartfast.families.r3gan.phases import R3GanPhases
from smartfast.families.r3gan.sampler import R3GanSampler
from smartfast.families.rounds import Round
from smartfast.networks.r3gan import Discriminator, Generator
from smartfast.run.training import Training, real_batches

COMMAND = "python -m bench.proofs.penalties"
SETTINGS = (
    *("--gan.family=r3gan", "--data.labels=false", "--data.resolution=16", "--smart.frequency=0", "--optim.batch=32"),
    *("--gan.widths=[32, 32, 32]", "--gan.cardinalities=[8, 8, 8]", "--gan.blocks=[2, 2, 2]", "--gan.z_dim=64"),
    *("--augment.mode=fixed", "--augment.pipe=r3gan", "--augment.p=0.3", "--optim.lr_g=0.0002", "--optim.lr_d=0.0002"),
)
STEPS = (1.0, 0.1, 0.01, 1e-3, 1e-4)
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
PARTS = ("R1", "R2", "d_main")
ABOUT = """\
Digits at 16 pixels, widths 32, R3GAN's augmentation at p 0.3, gamma {gamma:g}, after {warm_up} iterations; {batches}
batches of {batch} images, {directions} random directions for each image. Gradients for the parameters of the
discriminator, against the exact one in float64: of R1 and R2, and of the whole phase d_main, which has gamma / 2 of
both. Cosine: with one direction, as training takes it; mean and standard deviation over directions and batches. Mean
gradient: cosine of the mean over the directions, where what is only noise fades and a bias stays. Rounding: norm of the
difference to the same directions in float64, relative; median. GFLOP: of convolutions and matrix products of a batch,
counted on the phase as it runs."""


class Gradients(NamedTuple):
    """For all parameters of the discriminator, flat: of the penalties, and of the whole phase."""

    r1: Tensor
    r2: Tensor
    d_main: Tensor


@dataclass(frozen=True)
class Deviation:
    """A way to compute one gradient, against the exact one. step: None = exact. rounding: None = nothing to compare."""

    part: str
    step: float | None
    precision: str
    cosine: tuple[float, float]
    cosine_of_mean: float
    rounding: float | None


@dataclass(frozen=True)
class Cost:
    """FLOPs of a batch of d_main with a penalty. over_none: Times those of the same phase without penalties."""

    penalty: str
    flops: float
    over_none: float


def new_training(**settings: object) -> Training:
    """At its start; settings: Further ones, with __ for the dot of their names."""
    more = [f"--{name.replace('__', '.')}={value}" for name, value in settings.items()]
    config = parse_config([*SETTINGS, *more])
    return Training(config, open_dataset(config.data), device=torch.device("cpu"))


class Judge:
    """The penalties of a training's discriminator as it stands, in any precision."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.loss = cast(R3GanLoss, training.family.loss)
        self._view = training.family.augmented_view(training.scalars)
        networks = {name: network.module for name, network in training.networks.items()}
        self._g = cast(Generator, networks["g"])
        self.discriminators = {name: copy.deepcopy(networks["d"]).to(dtype) for name, dtype in DTYPES.items()}

    def gradients(self, batch: Round, precision: str, *, step: float | None = None, direction: int = 0) -> Gradients:
        """Exact where `step` is None; `direction` numbers what is drawn for the finite differences."""
        d = cast(Discriminator, self.discriminators[precision])
        images = batch.images.detach().to(DTYPES[precision]).requires_grad_()
        batch = Round(batch.stream, images, batch.labels)
        loss = self.loss if step is None else replace(self.loss, penalty="finite_difference", step=step)
        of = self.phases(d, loss, direction)
        real, fake = of.judged(batch)
        r1, r2 = of.penalties(real, fake, batch)
        adversarial = relativistic_loss(real.logits, fake.logits).mean()
        of_r1, of_r2, of_rest = (_gradient(part, d) for part in (r1.mean(), r2.mean(), adversarial))
        return Gradients(of_r1, of_r2, of_rest + self.gamma / 2 * (of_r1 + of_r2))

    def phases(self, d: Discriminator, loss: R3GanLoss, direction: int = 0) -> R3GanPhases:
        """Those of the training, with another discriminator or loss."""
        gamma = torch.tensor(self.gamma)
        sampler = R3GanSampler(self._g, data_labels=self.training.data_labels, seed=0)
        return R3GanPhases(sampler, d, loss, gamma=gamma, seed=direction, view=self._view, score=None)

    @property
    def gamma(self) -> float:
        assert isinstance(self.loss.gamma, float), "no schedule is set"
        return self.loss.gamma


def _gradient(loss: Tensor, d: Discriminator) -> Tensor:
    """For all parameters, flat, in float64; other losses may follow."""
    gradients = torch.autograd.grad(loss, list(d.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def measure(warm_up: int, batches: int, directions: int) -> Iterator[Deviation]:
    """Rows of every part, exact in float32, then by each step and precision."""
    training = new_training()
    images = real_batches(training)
    for _ in range(warm_up):
        training.run_iteration(next(images))
    judge, rounds = Judge(training), []
    for _ in range(batches):
        reals = next(images)
        training.load(reals)
        of_batch = training.rounds[0]
        rounds.append(Round(of_batch.stream.clone(), of_batch.images.detach().clone(), None))
        training.images += len(reals.images)
    exact = [judge.gradients(batch, "fp64") for batch in rounds]
    single = [[judge.gradients(batch, "fp32")] for batch in rounds]
    yield from _deviations(None, "fp32", exact, single, [[one] for one in exact])
    for step in STEPS:
        found = {
            precision: [
                [judge.gradients(batch, precision, step=step, direction=n) for n in range(directions)]
                for batch in rounds
            ]
            for precision in DTYPES
        }
        yield from _deviations(step, "fp32", exact, found["fp32"], found["fp64"])
        yield from _deviations(step, "fp64", exact, found["fp64"], None)


def _deviations(
    step: float | None,
    precision: str,
    exact: Sequence[Gradients],
    found: Sequence[Sequence[Gradients]],
    unrounded: Sequence[Sequence[Gradients]] | None,
) -> Iterator[Deviation]:
    """A row of each part. found, unrounded: By batch and direction; unrounded: The same in float64, None = they are."""
    for place, part in enumerate(PARTS):
        cosines, of_means, errors = [], [], []
        for number, batch in enumerate(found):
            reference = exact[number][place]
            cosines += [_cosine(one[place], reference) for one in batch]
            of_means.append(_cosine(torch.stack([one[place] for one in batch]).mean(dim=0), reference))
            if unrounded is not None:
                pairs = zip(batch, unrounded[number], strict=True)
                errors += [(one[place] - other[place]).norm() / other[place].norm() for one, other in pairs]
        values = torch.tensor(cosines)
        spread = values.std().item() if len(cosines) > 1 else 0.0
        rounding = torch.stack(errors).median().item() if errors else None
        yield Deviation(part, step, precision, (values.mean().item(), spread), sum(of_means) / len(of_means), rounding)


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a, b, dim=0).item()


def count_costs() -> Iterator[Cost]:
    """FLOPs of d_main without penalties, with exact ones and with finite differences."""
    training = new_training()
    judge = Judge(training)
    d = cast(Discriminator, training.networks["d"].module)
    of = judge.phases(d, judge.loss)

    def without(batch: Round) -> None:
        real, fake = of.judged(batch)
        _gradient(relativistic_loss(real.logits, fake.logits).mean(), d)

    none = count_eager(without, training.rounds[0]).flops
    yield Cost("none", none, 1.0)
    for penalty in ("exact", "finite_difference"):
        run = new_training(loss__penalty=penalty)
        flops = count_eager(run.phases["d_main"].compute, run.rounds[0]).flops
        yield Cost(penalty, flops, flops / none)


def report(rows: Sequence[Deviation], costs: Sequence[Cost], about: str) -> str:
    """The result in Markdown."""
    header = ["gradient of", "step", "precision", "cosine", "cosine of the mean", "rounding"]
    cells = [
        [
            row.part,
            "exact" if row.step is None else f"{row.step:g}",
            row.precision,
            f"{row.cosine[0]:.4f} ± {row.cosine[1]:.4f}",
            f"{row.cosine_of_mean:.4f}",
            None if row.rounding is None else f"{row.rounding:.1e}",
        ]
        for part in PARTS
        for row in rows
        if row.part == part
    ]
    of_costs = [[cost.penalty, f"{cost.flops / 1e9:.3f}", f"{cost.over_none:.2f}x"] for cost in costs]
    text = [
        "# R3GAN's penalties by finite differences",
        provenance(COMMAND),
        " ".join(about.split()),
        markdown_table(["loss.penalty", "GFLOP of d_main", "without penalties = 1"], of_costs),
        markdown_table(header, cells),
    ]
    return "\n\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--warm_up", type=int, default=200, help="iterations of training before")
    parser.add_argument("--batches", type=int, default=2, help="batches compared")
    parser.add_argument("--directions", type=int, default=8, help="random directions of each image")
    options = parser.parse_args(arguments)
    sizes = dict(warm_up=options.warm_up, batches=options.batches, directions=options.directions)
    rows, costs = list(measure(**sizes)), list(count_costs())
    training = new_training()
    about = ABOUT.format(**sizes, gamma=Judge(training).gamma, batch=training.config.optim.batch)
    text = report(rows, costs, about)
    head = {"command": COMMAND, "versions": versions(), **sizes}
    write_tables(options.output / "penalties", text, head, costs=map(asdict, costs), gradients=map(asdict, rows))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
