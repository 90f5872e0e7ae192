"""A scorer that is sampled with few steps, beside what its score trained: quality, seconds and FLOPs of a sample.

    python -m bench.proofs.one_step_rivals [--study runs/studies/one_step_rivals] [--seed 0] [--steps 1 2 8 32]

Rows of the scorer, by DDIM on its own schedule, and of each arm of the study whose cell with the seed is complete: its
newest checkpoint, all with the same metrics on the same real images. Draws a strip of each, between the same latents.
Writes bench/results/one_step_rivals.md and .json, and the strips into docs/studies/one_step_rivals.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.config.parse import parse_config
from smartfast.core.draws import Purpose
from smartfast.core.grids import save_grid
from smartfast.data import ImageDataset, open_dataset
from smartfast.families.sampling import Sampler, draw_path
from smartfast.families.saved import SCORER_PREFIX, open_sampler
from smartfast.metrics.evaluation import evaluate
from smartfast.study.cell import read_record

COMMAND = "python -m bench.proofs.one_step_rivals"
METRICS = ("fd_digits", "precision_digits", "recall_digits", "diversity_digits")
STRIPS = Path("docs/studies/one_step_rivals")
BATCH, STRIP_IMAGES = 64, 9
STRIP_SEEDS = (0, 1)


@dataclass(frozen=True)
class Row:
    """Of one way to draw images: its quality by METRICS, CPU seconds and FLOPs of an image, its network's size."""

    name: str
    metrics: Mapping[str, float]
    cpu_sec: float
    flops: float
    parameters: int


def rivals(study: Path, seed: int, steps: Sequence[int]) -> Iterator[tuple[str, Sampler]]:
    """What is compared, by name: the scorer with each number of steps, then the study's arms that are complete."""
    scorer = open_sampler(f"{SCORER_PREFIX}digits")
    for count in steps:
        yield f"scorer, {count} step{'s' * (count > 1)}", scorer.in_steps(count)
    for cell in sorted((study / "cells").glob(f"*-{seed}")):
        record = read_record(cell)
        if record is not None and record.status == "complete":
            yield cell.name.removesuffix(f"-{seed}"), open_sampler(cell)


def measured(name: str, sampler: Sampler, dataset: ImageDataset, samples: int) -> Row:
    """A row; its seconds are of the processor alone, so that other work beside it does not count."""
    config = replace(parse_config(["--config=digits"]).metrics, samples=samples, batch=BATCH)
    values = evaluate(sampler, dataset, config, device=torch.device("cpu"), progress=False)
    begin_sec = time.process_time()
    sampler(torch.arange(BATCH))
    cpu_sec = (time.process_time() - begin_sec) / BATCH
    # The CPU's fused attention is unknown to the counter.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sampler.draw(Purpose.SAMPLE, torch.arange(1), None)
    parameters = sum(parameter.numel() for parameter in sampler.module.parameters())
    return Row(name, {metric: values[metric] for metric in METRICS}, cpu_sec, counter.get_total_flops(), parameters)


def draw_strip(sampler: Sampler, path: Path) -> None:
    """Images between those of two seeds, of one class each time: 0, 3 and 8."""
    seeds, rows = torch.tensor(STRIP_SEEDS), []
    for label in (0, 3, 8):
        labels = torch.full((len(seeds),), label)
        rows.append(draw_path(sampler, seeds, labels, steps=STRIP_IMAGES - 1, loop=False, batch=STRIP_IMAGES))
    save_grid(torch.cat(rows), path, STRIP_IMAGES)


def report(rows: Sequence[Row], about: str) -> str:
    """The result in Markdown."""
    header = ["", *METRICS, "CPU ms an image", "MFLOP an image", "parameters"]
    cells = [
        [
            row.name,
            *(f"{row.metrics[metric]:.3g}" for metric in METRICS),
            f"{1000 * row.cpu_sec:.2f}",
            f"{row.flops / 1e6:.1f}",
            f"{row.parameters:,}",
        ]
        for row in rows
    ]
    title = "# One-step rivals of a scorer on digits"
    where = f"{provenance(COMMAND)}; {machine(torch.device('cpu'))}"
    return "\n\n".join([title, where, about, markdown_table(header, cells)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument(
        "--strips", type=Path, default=Path("docs/studies/one_step_rivals"), help="folder of the strips"
    )
    parser.add_argument("--study", type=Path, default=Path("runs/studies/one_step_rivals"), help="its folder")
    parser.add_argument("--seed", type=int, default=0, help="of the study's cells, and of no sample")
    parser.add_argument("--samples", type=int, default=1797, help="images of a row")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 8, 32], help="of the scorer")
    options = parser.parse_args(arguments)
    dataset = open_dataset(parse_config(["--config=digits"]).data)
    assert dataset.labels is not None, "the digits have classes"
    rows = []
    options.strips.mkdir(parents=True, exist_ok=True)
    for name, sampler in rivals(options.study, options.seed, options.steps):
        rows.append(measured(name, sampler.of_data(dataset.labels, seed=0), dataset, options.samples))
        draw_strip(sampler, options.strips / f"strip_{name.replace(', ', '_').replace(' ', '_')}.png")
    about = (
        f"{options.samples} samples against the {len(dataset)} digits, in the bundled classifier's features. Under "
        f"the scorer's rows are the study's arms, seed {options.seed} alone: its report has all seeds. CPU time is of "
        f"one thread for a batch of {BATCH}; FLOPs are of convolutions and matrix products."
    )
    text = report(rows, about)
    write_tables(
        options.output / "one_step_rivals", text, {"command": COMMAND, "versions": versions()}, rows=map(asdict, rows)
    )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
