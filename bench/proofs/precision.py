"""What half precision changes: loss and gradient of every phase against float32, on the digits networks; no GPU needed.

    python -m bench.proofs.precision

A generator and a discriminator are trained for a few iterations in float32; then each phase computes its gradient for
the same images, latents and noise in fp16 and in bf16 (perf.precision, all resolutions from gan.half_resolutions on;
scorer in float32). On a CPU half precision rounds what is stored and computes in float32, as the ops do on a GPU
except inside matrix products, so this shows the rounding and the range, not a GPU's every digit; tf32 needs a GPU.
What the score term adds is compared by itself too, on a narrow network, at a resolution and with a weight where a
pixel's part of it is below fp16's smallest number. Writes bench/results/precision.md and .json.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.base.family import computed, replacements
from bench.base.machine import provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.config.parse import parse_config
from smartfast.data import open_dataset
from smartfast.engine.phase import ComputedPhase
from smartfast.run.training import Training, real_batches
from smartfast.scorers import Scorer, load_scorer, timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_config

COMMAND = "python -m bench.proofs.precision"
SETTINGS = ("--gan.conv_clamp=256", "--gan.noise=true", "--loss.path_length_weight=2", "--loss.path_length_interval=4")


PRECISIONS = ("fp16", "bf16")
SCORE_RESOLUTION, SCORE_BATCH, SCORE_WEIGHT = 256, 64, 0.1
"""2 * weight / (batch * pixels) is 5e-8; fp16's smallest number is 6e-8."""
NARROW = (
    *("--gan.z_dim=16", "--gan.w_dim=16", "--gan.mapping_layers=1", "--gan.channel_base=1024", "--gan.channel_max=16"),
    *(
        "--gan.mbstd_group=4",
        "--gan.mbstd_by_class=false",
        "--gan.conv_clamp=256",
        "--smart.noise_to_signal=[0.1, 0.13]",
    ),
)


@dataclass(frozen=True)
class Row:
    """Medians over batches. loss: relative difference; gradient: norm of the difference relative to the norm of the
    float32 gradient; cosine: between the two gradients; zeros: share of the gradient that only half precision lost."""

    precision: str
    phase: str
    loss: float
    gradient: float
    cosine: float
    zeros: float


def training(precision: str) -> Training:
    """The digits preset with the clamp and the noise that StyleGAN2-ADA has, at its start."""
    return _training((*SETTINGS, f"--perf.precision={precision}"), load_scorer("digits"))


def score_training(precision: str, *, resolution: int, batch: int, separate_pass: bool) -> Training:
    """A narrow network whose scorer is known in closed form: what rounds is the generator, not the scorer."""
    schedule = schedule_from_config({"beta_schedule": "linear"}, "closed form")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(1, 1, resolution, resolution), torch.tensor([0.5]))
    settings = (f"--data.resolution={resolution}", f"--optim.batch={batch}", f"--smart.weight={SCORE_WEIGHT}")
    switch = f"--smart.separate_pass={str(separate_pass).lower()}"
    return _training((*NARROW, *settings, switch, f"--perf.precision={precision}"), scorer)


def _training(settings: Sequence[str], scorer: Scorer) -> Training:
    config = parse_config(list(settings))
    return Training(
        config,
        open_dataset(config.data),
        scorer=scorer,
        timesteps=timestep_range(scorer, config.smart),
        device=torch.device("cpu"),
    )


def compare(result: ComputedPhase, half_result: ComputedPhase) -> tuple[float, float, float, float]:
    """The numbers of a `Row` from a phase's result in float32 and in another precision."""
    (loss, _, gradients), (half_loss, _, half_gradients) = result, half_result
    exact, half = (torch.cat([g.flatten() for g in each]).double() for each in (gradients, half_gradients))
    lost = ((half == 0) & (exact != 0)).double().mean()
    return (
        _relative(half_loss, loss),
        _relative(half, exact),
        torch.cosine_similarity(half, exact, dim=0).item(),
        lost.item(),
    )


def _relative(value: Tensor, exact: Tensor) -> float:
    return ((value - exact).norm() / exact.norm()).item()


def measure(warm_up: int, repeats: int) -> Iterator[Row]:
    """Rows of every phase in fp16 and bf16, after `warm_up` iterations of training in float32."""
    reference = training("fp32")
    images = real_batches(reference)
    for _ in range(warm_up):
        reference.run_iteration(next(images))
    for precision in PRECISIONS:
        other = training(precision)
        other.restore(reference.state(), images=reference.images)
        found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in reference.phases}
        for _ in range(repeats):
            batch = next(images)
            for run in (reference, other):
                run.load(batch)
            for name, values in found.items():
                values.append(compare(*(computed(run, name) for run in (reference, other))))
            reference.images = other.images = reference.images + len(batch.images)
        for name, values in found.items():
            yield Row(precision, name, *(statistics.median(column) for column in zip(*values, strict=True)))


def measure_score(resolution: int = SCORE_RESOLUTION, batch: int = SCORE_BATCH) -> Iterator[Row]:
    """Rows of what the score term adds to a phase at the start of a training: on its images, and in its own pass."""
    for separate_pass in (False, True):
        runs = {
            precision: score_training(precision, resolution=resolution, batch=batch, separate_pass=separate_pass)
            for precision in ("fp32", *PRECISIONS)
        }
        reals = next(real_batches(runs["fp32"]))
        for run in runs.values():
            run.load(reals)
        for phase, replaced in replacements(runs["fp32"]).items():
            exact, *others = (_added(run, phase, replaced) for run in runs.values())
            name = f"{phase} - {replaced}, {resolution} pixels{', separate pass' if separate_pass else ''}"
            for precision, half in zip(PRECISIONS, others, strict=True):
                yield Row(precision, name, *compare(exact, half))


def _added(run: Training, phase: str, replaced: str) -> ComputedPhase:
    """A phase less the one that it runs in place of, which draws the same numbers."""
    (loss, _, gradients), (other, _, others) = (computed(run, name) for name in (phase, replaced))
    return loss - other, {}, tuple(a.double() - b.double() for a, b in zip(gradients, others, strict=True))


def report(rows: Sequence[Row], warm_up: int, repeats: int) -> str:
    """The result in Markdown."""
    header = ["precision", "phase", "loss", "gradient", "1 - cosine", "lost to zero"]
    cells = [
        [r.precision, r.phase, f"{r.loss:.1e}", f"{r.gradient:.1e}", f"{1 - r.cosine:.1e}", f"{r.zeros:.1%}"]
        for r in rows
    ]
    text = [
        "# What half precision changes",
        provenance(COMMAND),
        f"Digits preset with noise, clamp 256 and path length, after {warm_up} iterations in float32; medians of "
        f"{repeats} batches of 32. Relative differences to float32 of each phase's loss and of its whole gradient, and "
        "the share of the gradient's elements that are zero in half precision only. Rows of a difference are what the "
        f"score term adds, in a narrow network at its start, one batch of {SCORE_BATCH}, weight {SCORE_WEIGHT}.",
        markdown_table(header, cells),
    ]
    return "\n\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--warm_up", type=int, default=100, help="iterations of training before")
    parser.add_argument("--repeats", type=int, default=8, help="batches compared")
    options = parser.parse_args(arguments)
    rows = [*measure(options.warm_up, options.repeats), *measure_score()]
    text = report(rows, options.warm_up, options.repeats)
    head = {"command": COMMAND, "versions": versions()}
    write_tables(options.output / "precision", text, head, rows=map(asdict, rows))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
