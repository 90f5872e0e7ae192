"""What the switches of the score term save and change: its gradient for the generator against the whole term in fp32.

    python -m bench.proofs.score_switches [--run_dir runs/digits] [--student FOLDER] [--perf.cpu_threads=1 ...]

Trains the digits preset for a few ticks, or takes the newest checkpoint of --run_dir, and a scorer of the digits
reduced to 8x8 pixels for smart.downscale. A student is that of `smartfast train-scorer --config digits_student`. Every
variant then scores the same fakes with the same noise and timesteps.
The term's gradient is that of the phase with it less that of the phase without; so are its FLOPs and its time. Writes
bench/results/score_switches.md and .json. Any option of `smartfast train` works.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from bench.base.jobs import Job, job_config, open_job
from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.count.counter import count_eager
from bench.report.table import markdown_table
from smartfast.config.families import UNetOptions
from smartfast.config.schema import DataConfig
from smartfast.core.checkpoint import load_newest
from smartfast.data.sources.digits import load_digits
from smartfast.engine.phase import ComputedPhase, with_gradients
from smartfast.errors import UserError
from smartfast.families.base import Parts
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity, score_weight
from smartfast.run.training import Training
from smartfast.scorers import Scorer, load_scorer, timestep_range
from smartfast.tools.train_scorer import TrainScorerOptions, train_scorer

COMMAND = "python -m bench.proofs.score_switches"
FULL, WITHOUT = "the whole term in fp32", "no term"
# The digits preset's, and SMaRt's at 64 pixels and more (arXiv 2311.18208).
INTERVALS = ((25, 250), (25, 35))
ABOUT = """\
Cosine and norm: of the term's gradient for the generator's weights to that of the whole term in fp32, on the same fakes
with the same noise and timesteps; mean and standard deviation over {batches} batches of {batch} images. Mean gradient:
the cosine after averaging both over the batches, where what is only noise fades and a bias stays. Step: the cosine of
the gradients of the generator's whole step, discriminator and term. `other noise` is the whole term again with other
noise: how much one batch's gradient means. FLOPs, of an image of the batch, and time, of a step, are what the term adds
to the phase without it. Counted are convolutions, matrix products and attention; milliseconds are the median of
{repeats} turns and the middle 60 %. A CPU that cannot multiply in half precision converts instead, which costs more
than it saves."""


@dataclass(frozen=True)
class Variant:
    """One way to compute the score term. smart: What differs in the smart settings. noise_seed: Of the noise."""

    name: str
    scorer: Scorer
    smart: dict[str, Any] = field(default_factory=dict)
    noise_seed: int = 0


@dataclass(frozen=True)
class Deviation:
    """A variant's gradient against the whole term's; pairs are mean and standard deviation over batches."""

    variant: str
    timesteps: tuple[int, int]
    cosine: tuple[float, float]
    norm_ratio: tuple[float, float]
    cosine_of_mean: float
    cosine_of_step: tuple[float, float]


@dataclass(frozen=True)
class Cost:
    """What a variant adds to a step. flops: per image of the batch; milliseconds: median, 20th and 80th percentile."""

    variant: str
    flops: float
    milliseconds: tuple[float, float, float]


def variants(reduced: Scorer, student: str | None = None) -> list[Variant]:
    """The whole term, each switch alone, and, as the last, the whole term with other noise.

    reduced: Scores half the resolution. student: Scorer that was distilled from the bundled one, None = without.
    """
    digits = load_scorer("digits")
    students = [] if student is None else [Variant("smart.scorer of a student", load_scorer(student))]
    return [
        Variant(FULL, digits),
        Variant("smart.batch_fraction 0.5", digits, {"batch_fraction": 0.5}),
        Variant("smart.through_network false", digits, {"through_network": False}),
        Variant("smart.downscale 2", reduced, {"downscale": 2}),
        Variant("smart.crop 8", digits, {"crop": 8}),
        *students,
        Variant("smart.precision bf16", load_scorer("digits", precision="bf16")),
        Variant("smart.precision fp16", load_scorer("digits", precision="fp16")),
        Variant("other noise", digits, noise_seed=1),
    ]


def phase(training: Training, variant: Variant | None, interval: tuple[int, int]) -> Callable[[Round], ComputedPhase]:
    """The phase with a variant of the term, or without one: from a round to loss, statistics and gradients."""
    score: ScoreRegularity | None = None
    if variant is not None:
        changes = {"timesteps": interval, "noise_to_signal": None, **variant.smart}
        smart, seed = replace(training.config.smart, **changes), training.config.run.seed
        weight = score_weight(smart, training.family.variables, training.scalars)
        timesteps = timestep_range(variant.scorer, smart)
        score = ScoreRegularity(variant.scorer, timesteps, smart, seed=seed, weight=weight)
        score.term = replace(score.term, seed=seed + variant.noise_seed)
    specs = training.family.phases(Parts(training.data_labels, training.scalars, score, 1))
    scored = next((spec.replaces for spec in training.specs if spec.replaces), None)
    spec = next(spec for spec in specs if spec.replaces or (variant is None and spec.name == scored))
    return with_gradients(spec, training.networks[spec.network].parameters.parameters)


def rounds(job: Job, training: Training, count: int) -> list[Round]:
    """The next `count` batches, whole."""
    images = job.batches(training)
    first, found = training.images, []
    for index in range(count):
        batch = next(images)
        found.append(Round(training.offsets + first + index * len(batch.images), batch.images, batch.labels))
    return found


def deviations(training: Training, ways: Sequence[Variant], batches: Sequence[Round]) -> Iterator[Deviation]:
    """One row for each variant but the first, which the others are compared with, and each interval of timesteps."""
    for interval in INTERVALS:
        adversarial = torch.stack([_flat(phase(training, None, interval)(batch)) for batch in batches])
        steps = {way.name: torch.stack([_flat(phase(training, way, interval)(b)) for b in batches]) for way in ways}
        whole_step = steps.pop(ways[0].name)
        for name, step in steps.items():
            yield compare(name, interval, step, whole_step, adversarial)


def compare(name: str, interval: tuple[int, int], step: Tensor, whole_step: Tensor, adversarial: Tensor) -> Deviation:
    """Gradients [batches, parameters] of a variant's step, of the whole term's step, and of the step without a term."""
    term, whole = step - adversarial, whole_step - adversarial
    cosine = partial(torch.cosine_similarity, dim=-1)
    return Deviation(
        variant=name,
        timesteps=interval,
        cosine=_mean_and_spread(cosine(term, whole)),
        norm_ratio=_mean_and_spread(term.norm(dim=1) / whole.norm(dim=1)),
        cosine_of_mean=cosine(term.mean(dim=0), whole.mean(dim=0)).item(),
        cosine_of_step=_mean_and_spread(cosine(step, whole_step)),
    )


def _flat(result: ComputedPhase) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in result[2]]).double()


def _mean_and_spread(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item()


def costs(training: Training, ways: Sequence[Variant], batch: Round, repeats: int) -> Iterator[Cost]:
    """FLOPs and time of every variant, those of the phase without a term taken away."""
    phases = {way.name: phase(training, way, INTERVALS[0]) for way in ways}
    phases[WITHOUT] = phase(training, None, INTERVALS[0])
    flops = {name: _flops(partial(run, batch)) for name, run in phases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in phases}
    for _ in tqdm(range(repeats), desc="time", unit="turn", disable=None):
        for name, run in phases.items():
            start = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - start)
    for way in ways:
        added = [1000 * (a - b) for a, b in zip(seconds[way.name], seconds[WITHOUT], strict=True)]
        low, middle, high = np.percentile(added, [20, 50, 80]).tolist()
        yield Cost(way.name, (flops[way.name] - flops[WITHOUT]) / len(batch.stream), (middle, low, high))


def _flops(run: Callable[[], Any]) -> int:
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's own attention computes the probabilities twice
        return int(count_eager(run).flops)


def reduced_scorer(folder: Path, kimg: float) -> Scorer:
    """A scorer of the 16-pixel digits reduced to 8 pixels as smart.downscale reduces them, trained in `folder`."""
    images, labels = load_digits(16)
    pixels = F.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    np.savez(folder / "reduced.npz", images=pixels.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    options = TrainScorerOptions(
        dir=str(folder / "reduced_scorer"),
        data=DataConfig(path=str(folder / "reduced.npz"), labels=True),
        unet=UNetOptions(
            block_out_channels=(16, 32, 64), layers_per_block=1, attention=(), attention_head_dim=16, norm_groups=8
        ),
        kimg=kimg,
        batch=64,
        lr=2e-3,
        lr_warmup_kimg=kimg / 24,
        lr_decay="cosine",
        ema_decay=0.998,
        snapshot_kimg=kimg,
        sample_rows=1,
        sample_steps=10,
    )
    return load_scorer(str(train_scorer(options)))


def prepare(job: Job, run_dir: Path | None, iterations: int) -> Training:
    """The state of a run: its newest checkpoint, or the preset after some iterations.

    Raises:
        UserError: `run_dir` holds no checkpoint.
    """
    training = job.training(compile=False)
    if run_dir is not None:
        checkpoint = load_newest(run_dir)
        if checkpoint is None:
            raise UserError(f"--run_dir {run_dir}: expected a run folder with a checkpoint")
        training.restore(checkpoint.state, images=checkpoint.info["images"])
        return training
    batches = job.batches(training)
    for _ in tqdm(range(iterations), desc="train", unit="step", disable=None):
        training.run_iteration(next(batches))
    return training


def report(found: Sequence[Deviation], prices: Sequence[Cost], command: str, about: str) -> str:
    """The result in Markdown."""
    text = ["# Switches of the score term", provenance(command), about, "## Gradient"]
    header = ["timesteps", "switch", "cosine", "norm ratio", "cosine of the mean gradient", "cosine of the step"]
    rows = [
        [
            f"{row.timesteps[0]} to {row.timesteps[1]}",
            row.variant,
            _spread(row.cosine, 5),
            _spread(row.norm_ratio, 3),
            f"{row.cosine_of_mean:.5f}",
            _spread(row.cosine_of_step, 5),
        ]
        for row in found
    ]
    text += [markdown_table(header, rows), "## Cost"]
    whole = prices[0]
    cells = [
        [
            cost.variant,
            f"{cost.flops / 1e6:.1f}",
            f"{cost.flops / whole.flops:.2f}",
            "{:.0f} ({:.0f} to {:.0f})".format(*cost.milliseconds),
            f"{cost.milliseconds[0] / whole.milliseconds[0]:.2f}",
        ]
        for cost in prices
    ]
    text.append(markdown_table(["switch", "MFLOP per image", "share", "ms per step", "share"], cells))
    return "\n\n".join(text) + "\n"


def _spread(pair: tuple[float, float], digits: int) -> str:
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--run_dir", type=Path, help="run folder of the digits preset to take the generator from")
    parser.add_argument("--iterations", type=int, default=250, help="training iterations without --run_dir")
    parser.add_argument("--scorer_kimg", type=float, default=48, help="training of the scorer for smart.downscale")
    parser.add_argument("--student", help="scorer that was distilled from the bundled one")
    parser.add_argument("--batches", type=int, default=8, help="batches that gradients are compared on")
    parser.add_argument("--repeats", type=int, default=9, help="turns of the measurement of time")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options, others = parser.parse_known_args(arguments)
    device = torch.device("cpu")
    job = open_job(job_config("digits", others), device=device)
    training = prepare(job, options.run_dir, options.iterations)
    with tempfile.TemporaryDirectory() as folder:
        ways = variants(reduced_scorer(Path(folder), options.scorer_kimg), options.student)
    batches = rounds(job, training, options.batches)
    found = list(deviations(training, ways, batches))
    prices = list(costs(training, ways[:-1], batches[0], options.repeats))

    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    about = ABOUT.format(batches=options.batches, batch=job.config.optim.batch, repeats=options.repeats)
    about = f"{machine(device)}; generator after {training.images / 1000:g} kimg.\n\n{about}"
    text = report(found, prices, command, about)
    head = {"command": command, "versions": versions(), "machine": machine(device), "kimg": training.images / 1000}
    tables = {"gradient": map(asdict, found), "cost": map(asdict, prices)}
    write_tables(options.output / "score_switches", text, head, **tables)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
