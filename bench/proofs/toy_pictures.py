"""Pictures of the score term in the plane, from the runs of the study `toy`.

    python -m bench.proofs.toy_pictures [--study runs/studies/toy] [--seed 0] [--out docs/studies/toy]

Draws samples with and without the term over the data (samples.png), which way and how hard each loss pulls a point
(arrows.png), and the lengths of both gradients against the distance to the ring (gradients.png), of the distributions
whose two runs with the seed are complete.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from smartfast.config.parse import load_config
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.core.checkpoint import find_checkpoint, load_tensors
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.core.plane import PREFIX, SHAPES, Shape, draw_points
from smartfast.families.saved import open_sampler
from smartfast.families.toy.family import PointSampler
from smartfast.networks.mlp import PointDiscriminator
from smartfast.scorers import load_scorer, timestep_range
from smartfast.scorers.term import score_loss
from smartfast.study.cell import read_record

REAL, FAKE, ADVERSARIAL, SCORE = "#b9bec6", "#2563a8", "#5f6b7a", "#c2571a"
SAMPLES, NOISES, VIEW = 1000, 256, 1.2
TRAINED = "d/module/"


def complete_shapes(cells: Path, seed: int) -> dict[str, Shape]:
    """The distributions whose runs of this seed, without and with the term, are complete."""

    def is_complete(arm: str) -> bool:
        record = read_record(cells / f"{arm}-{seed}")
        return record is not None and record.status == "complete"

    return {name: shape for name, shape in SHAPES.items() if is_complete(name) and is_complete(f"{name}_score")}


def points_of(run: Path) -> Tensor:
    """Samples [SAMPLES, 2] of a run's averaged generator."""
    sampler = open_sampler(run)
    assert isinstance(sampler, PointSampler), f"{run} is no run of the toy family"
    return sampler(torch.arange(SAMPLES))[0].flatten(1)


def discriminator(run: Path, config: Config) -> PointDiscriminator:
    """The trained one of a run's newest checkpoint."""
    module = PointDiscriminator(config.gan.width, config.gan.depth)  # type: ignore[attr-defined]
    _, tensors = load_tensors(find_checkpoint(run), lambda name: name.startswith(TRAINED))
    module.load_state_dict({name.removeprefix(TRAINED): value for name, value in tensors.items()})
    return module.requires_grad_(False)


def adversarial_gradient(d: PointDiscriminator, points: Tensor) -> Tensor:
    """d softplus(-D(x)) / dx at points [N, 2], [N, 2]."""
    x = points.clone().requires_grad_()
    return torch.autograd.grad(F.softplus(-d(x)).sum(), x)[0]


def score_gradient(config: Config, points: Tensor) -> Tensor:
    """lambda d E[L_score(x)] / dx at points [N, 2], the mean over NOISES noises and timesteps, [N, 2]."""
    assert config.smart.scorer is not None
    scorer = load_scorer(config.smart.scorer, precision="fp32")
    interval = timestep_range(scorer, config.smart)
    stream = torch.arange(NOISES)
    t = draw_timesteps(0, stream, interval.first, interval.last)
    found = []
    for point in points:
        x = point.view(1, 2, 1, 1).repeat(NOISES, 1, 1, 1).requires_grad_()
        loss = score_loss(scorer, x, None, t, seed=0, stream=stream, purpose=int(Purpose.SCORE_NOISE))
        found.append(torch.autograd.grad(loss.mean(), x)[0].sum(dim=0).flatten())
    return value_at(config.smart.weight, round(1000 * config.run.kimg)) * torch.stack(found)


def bare(axis: Axes, title: str) -> None:
    """The plane, without numbers."""
    axis.set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW), aspect="equal", xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def draw_samples(cells: Path, seed: int) -> Figure:
    """Samples over the data, a column per distribution, without and with the term."""
    shapes = complete_shapes(cells, seed)
    drawing = Figure(figsize=(2.3 * len(shapes), 5), layout="constrained")
    rows = drawing.subplots(2, len(shapes), squeeze=False)
    for column, (name, shape) in enumerate(shapes.items()):
        reals = draw_points(shape, SAMPLES)
        for axis, (arm, title) in zip(rows[:, column], ((name, "without"), (f"{name}_score", "with")), strict=True):
            fakes = points_of(cells / f"{arm}-{seed}")
            axis.scatter(*reals.T, s=6, color=REAL, linewidths=0)
            axis.scatter(*fakes.T, s=2, color=FAKE, linewidths=0)
            bare(axis, f"{name}, {title} the term")
    return drawing


def draw_arrows(cells: Path, seed: int) -> Figure:
    """Where each loss sends a point: unit arrows down its gradient, coloured by the gradient's length."""
    side = torch.linspace(-1.1, 1.1, 15)
    grid = torch.cartesian_prod(side, side)
    shapes = complete_shapes(cells, seed)
    drawing = Figure(figsize=(2.7 * len(shapes) + 1, 5.6), layout="constrained")
    rows = drawing.subplots(2, len(shapes), squeeze=False)
    for column, (name, shape) in enumerate(shapes.items()):
        plain, scored = cells / f"{name}-{seed}", cells / f"{name}_score-{seed}"
        config = load_config(scored / "config.yaml")
        losses = {
            "discriminator": adversarial_gradient(discriminator(plain, config), grid),
            "score term": score_gradient(config, grid),
        }
        for axis, (title, gradient) in zip(rows[:, column], losses.items(), strict=True):
            length = gradient.norm(dim=1)
            direction = -gradient / length[:, None].clamp(min=1e-12)
            axis.scatter(*draw_points(shape, SAMPLES).T, s=4, color=REAL, linewidths=0)
            arrows = axis.quiver(*grid.T, *direction.T, length.log10().clamp(-3, 1.5), cmap="viridis", scale=22)
            arrows.set_clim(-3, 1.5)
            bare(axis, f"{name}, {title}")
    drawing.colorbar(arrows, ax=rows, label="log10 of the gradient's length", shrink=0.6)
    return drawing


def draw_gradients(cells: Path, seed: int) -> Figure:
    """Lengths of both gradients on a ray from the centre through the ring, against the distance to it, outside."""
    distance = torch.linspace(0, 3, 61)
    points = torch.stack([0.8 + distance, torch.zeros_like(distance)], dim=1)
    config = load_config(cells / f"ring_score-{seed}" / "config.yaml")
    assert config.smart.scorer == f"{PREFIX}ring"
    lengths = {
        "adversarial loss, trained without the term": adversarial_gradient(
            discriminator(cells / f"ring-{seed}", config), points
        ).norm(dim=1),
        "score term, times its weight": score_gradient(config, points).norm(dim=1),
    }
    drawing = Figure(figsize=(5, 3.4), layout="constrained")
    axis = drawing.subplots()
    for (title, length), color in zip(lengths.items(), (ADVERSARIAL, SCORE), strict=True):
        axis.semilogy(distance, length, color=color, label=title)
    axis.set(xlabel="distance to the ring, outwards", ylabel="length of the gradient for a point")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)
    return drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("runs/studies/toy"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/studies/toy"))
    options = parser.parse_args()
    if "ring" not in complete_shapes(options.study / "cells", options.seed):
        parser.error(
            f"--study is {options.study}, expected one whose cells ring-{options.seed} and "
            f"ring_score-{options.seed} are complete"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = {"samples": draw_samples, "arrows": draw_arrows, "gradients": draw_gradients}
    for name, draw in drawn.items():
        draw(options.study / "cells", options.seed).savefig(options.out / f"{name}.png", dpi=80)
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
