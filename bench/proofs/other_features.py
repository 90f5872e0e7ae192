"""The trained cells of a study measured again in features that nobody has trained.

    python -m bench.proofs.other_features digits [--quick] [--networks 3] [--samples 1797]

A distance in a classifier's features sees what tells classes apart. Here the same samples of every complete cell are
compared with the same real images in the features of convolutional networks with random weights, which favour nothing
(Naeem et al., arXiv 2002.09797): the mean over several such networks. Tells the arms, the study's pairs, and how well
both spaces agree on the order of the cells. Writes other_features.md and .json into docs/studies/NAME.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor

from bench.base.machine import provenance, versions
from bench.base.results import write_tables
from bench.report.table import markdown_table
from smartfast.config.parse import load_config
from smartfast.data import ImageDataset, open_dataset
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.metrics.collect import ImageSource
from smartfast.metrics.digits.features import DigitClassifier, classifier_input
from smartfast.metrics.evaluation import evaluate
from smartfast.study.plan import Plan, find_study, folder_of, load_plan
from smartfast.study.results import read_results
from smartfast.study.statistics import paired_difference, summarise
from smartfast.study.trials import follow

COMMAND = "python -m bench.proofs.other_features"
MEASURES = ("fd", "precision", "recall", "diversity")
BATCH = 64
_CPU = torch.device("cpu")

Values = dict[str, dict[int, dict[str, float]]]
"""Of each arm, by seed: MEASURES, and the study's own first metric as `first`."""


def random_network(number: int, dataset: ImageDataset, file: Path) -> Path:
    """Write the weights of a classifier as they are drawn, its features scaled to mean variance 1 over the data."""
    torch.manual_seed(number)
    model = DigitClassifier(dataset.resolution)
    with torch.no_grad():
        features, _ = model(classifier_input(dataset.all_images(), dataset.resolution))
        model.feature_scale.copy_(features.var(dim=0).mean().rsqrt())
    save_file(model.state_dict(), file)
    return file


def drawn_once(source: ImageSource, count: int) -> ImageSource:
    """The first `count` samples of a source, drawn now."""
    parts = [source(numbers) for numbers in torch.arange(count).split(BATCH)]
    images = torch.cat([images for images, _ in parts])
    found = [labels for _, labels in parts if labels is not None]
    labels = torch.cat(found) if found else None

    def look_up(numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        return images[numbers], None if labels is None else labels[numbers]

    return look_up


def measure(run_dir: Path, networks: Sequence[Path], samples: int) -> dict[str, float]:
    """MEASURES of a run's newest checkpoint, the mean over the networks."""
    config = load_config(run_dir / "config.yaml")
    dataset = open_dataset(config.data)
    source = drawn_once(open_sampler(run_dir).of_data(dataset.labels, seed=config.run.seed), samples)
    found = []
    for file in networks:
        metrics = replace(
            config.metrics,
            names=("fid", "prc", "diversity"),
            samples=samples,
            features="classifier",
            weights=str(file),
            reference=None,
        )
        found.append(evaluate(source, dataset, metrics, device=_CPU, cache_dir=file.parent, progress=False))
    return {name: statistics.fmean(values[f"{name}_classifier"] for values in found) for name in MEASURES}


def measure_cells(plan: Plan, out: Path, *, networks: int, samples: int) -> Values:
    """Every complete cell of a study; raises UserError where there is none."""
    values: Values = {arm.name: {} for arm in plan.arms}
    complete = [result for result in read_results(plan, out) if result.state == "complete"]
    if not complete:
        raise UserError(f"{out}: found no complete cell, expected those of `smartfast study run {plan.name}`")
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(load_config(folder_of(complete[0].cell, out) / "config.yaml").data)
        files = [random_network(n, dataset, Path(folder) / f"{n}.safetensors") for n in range(networks)]
        for result in complete:
            found = measure(folder_of(result.cell, out), files, samples)
            values[result.cell.arm][result.cell.seed] = found | {"first": result.values[plan.metrics[0]]}
            print(
                f"{result.cell.name}: " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True
            )
    return values


def arm_rows(values: Values) -> list[list[str]]:
    """For each arm: seeds, and mean with standard deviation of each of MEASURES."""
    rows = []
    for arm, by_seed in values.items():
        summaries = [summarise([found[name] for found in by_seed.values()]) for name in MEASURES] if by_seed else []
        cells = [f"{s.mean:.4g}" + ("" if s.deviation is None else f" ± {s.deviation:.2g}") for s in summaries]
        rows.append([arm, str(len(by_seed)), *cells])
    return rows


def pair_rows(plan: Plan, values: Values) -> list[list[str]]:
    """For each pair that the study compares and each of MEASURES: the difference, paired by seed, and its p-value."""
    rows = []
    for arm, other in plan.compared:
        for name in MEASURES:
            left, right = (_of(values[one], name) for one in (arm, other))
            found = paired_difference(left, right)
            if found is not None:
                rows.append([f"{arm} - {other}", name, str(found.size), f"{found.mean:+.3g}", f"{found.p_value:.3g}"])
    return rows


def _of(by_seed: Mapping[int, Mapping[str, float]], name: str) -> dict[int, float]:
    return {seed: found[name] for seed, found in by_seed.items()}


def report(plan: Plan, values: Values, networks: int, samples: int, command: str) -> str:
    """The result in Markdown."""
    cells = [found for by_seed in values.values() for found in by_seed.values()]
    rank = spearmanr([found["first"] for found in cells], [found["fd"] for found in cells]).statistic
    about = (
        f"{samples} samples of every complete cell against all real images, in the features of {networks} networks of "
        f"the bundled classifier's kind with random weights: the mean of both numbers of each. p is that of all sign "
        f"flips, two-sided, not adjusted. Rank correlation of fd here and {plan.metrics[0]} in the study, over "
        f"{len(cells)} cells: {rank:.2f}."
    )
    arms = markdown_table(["arm", "seeds", *MEASURES], arm_rows(values))
    pairs = markdown_table(["pair", "measure", "pairs", "difference", "p"], pair_rows(plan, values))
    return "\n\n".join([f"# {plan.title}: in random features", provenance(command), about, arms, pairs]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("study", help="YAML file, or name in configs/studies")
    parser.add_argument("--quick", action="store_true", help="its quick form")
    parser.add_argument("--out", type=Path, help="folder of the study")
    parser.add_argument("--networks", type=int, default=3, help="with random weights")
    parser.add_argument("--samples", type=int, default=1797, help="of each cell")
    parser.add_argument("--output", type=Path, help="folder of the result (default: docs/studies/NAME)")
    options = parser.parse_args(arguments)
    plan = load_plan(find_study(options.study), quick=options.quick)
    out = options.out or Path(plan.default_out)
    plan = follow(plan, out).plan
    values = measure_cells(plan, out, networks=options.networks, samples=options.samples)
    form = " --quick" if options.quick else ""
    command = f"{COMMAND} {options.study}{form} --networks {options.networks} --samples {options.samples}"
    text = report(plan, values, options.networks, options.samples, command)
    folder = options.output or Path("docs/studies") / plan.name
    rows = [{"arm": arm, "seed": seed, **found} for arm, by_seed in values.items() for seed, found in by_seed.items()]
    write_tables(folder / "other_features", text, {"command": command, "versions": versions()}, rows=rows)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
