"""`smartfast evaluate`: the metrics of a checkpoint, with the data and settings of its run unless told otherwise."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from smartfast.config.parse import load_config
from smartfast.config.ranges import Count, FilePath, LongSeed, Resolution, Samples, Truncation, in_range
from smartfast.config.schema import DataConfig, MetricsConfig
from smartfast.config.spaces import FeatureSpace
from smartfast.core import best
from smartfast.core.best import named
from smartfast.core.checkpoint import FOLDER
from smartfast.core.files import write_atomically
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.holdout import split
from smartfast.errors import UserError
from smartfast.families.sampling import Look, Sampler
from smartfast.families.saved import open_sampler, saved_kimg
from smartfast.metrics.evaluation import evaluate
from smartfast.metrics.extractors import MetricUnavailable
from smartfast.metrics.names import provenance
from smartfast.tools.generate import choose_device
from smartfast.tools.output import writing

Settings = TypeVar("Settings", DataConfig, MetricsConfig)


@dataclass(frozen=True)
class DataOptions:
    """The real images to compare with."""

    path: FilePath | None = None
    """`digits`, a folder, a stylegan2/3 data-set .zip, an .npz, or `hf:owner/name[:split]`. Unset: the run's."""
    resolution: Resolution | None = None
    """Height and width in pixels that the images must have. Unset: the run's."""


@dataclass(frozen=True)
class MetricsOptions:
    """What to compute."""

    names: tuple[Literal["fid", "kid", "isc", "prc", "diversity"], ...] | None = None
    """fid, kid, isc (inception score), prc (precision, recall), diversity (within-class). The results are named after
    their features too, such as fd_digits; fid, kid and isc alone mean inception. Unset: the run's."""
    samples: Samples | None = None
    """Generated images. Unset: the run's."""
    batch: Count | None = None
    """Images at a time through the generator and the feature extractor. Unset: the run's."""
    features: FeatureSpace | None = None
    """Feature space: torch-fidelity's InceptionV3, the bundled digit classifier, one of its kind that was
    trained on your images (classifier), or VGG16, CLIP and DINOv2 as torch-fidelity takes them, each with a file of
    metrics.weights. Unset: the run's."""
    weights: FilePath | None = None
    """Local file with the weights of the features. Unset: the run's."""
    reference: FilePath | None = None
    """Statistics to take the Fréchet distance to, a published .npz with mu and sigma (EDM's, ADM's). Unset: the
    run's."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Metrics of a checkpoint. What is unset is taken from the config.yaml of the run that the checkpoint lies in."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), RUN@best, checkpoint folder or generator_ema.safetensors; a folder of
    diffusers' ConsistencyModelPipeline; or `scorer:` and what smart.scorer takes, which is sampled by DDIM."""
    steps: Count | None = None
    """Passes of a sample, of a consistency model or a scorer. Unset: 1 and 32."""
    data: DataOptions = field(default_factory=DataOptions)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    truncation_psi: Truncation = 1.0
    """Truncation: 1 = none, 0 = the mean image. Published metrics are without."""
    seed: LongSeed | None = None
    """Seed of the samples, 0 to 2**64 - 1. Unset: the run's, which draws the samples of the training log."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


class _Plan(NamedTuple):
    data: DataConfig
    metrics: MetricsConfig
    seed: int


def evaluate_command(options: EvaluateOptions) -> dict[str, float]:
    """Evaluate a checkpoint; print a table and a JSON line.

    If `options.checkpoint` is a run folder, the JSON is also written to metrics-<kimg>.json there.

    Returns:
        The metrics, as `smartfast.metrics.evaluate` does.

    Raises:
        UserError: An option that does not suit the checkpoint or the data, or features that cannot be had here.
    """
    options = in_range(options)
    device = choose_device(options.device)
    sampler = open_sampler(options.checkpoint, device)
    if options.steps is not None:
        sampler = sampler.in_steps(options.steps)
    plan = _make_plan(options, sampler)
    dataset = open_dataset(plan.data)
    _check_match(sampler, dataset)
    holdout = plan.data.holdout if options.data.path is None else 0  # training draws labels of the others
    labels = split(dataset, holdout)[0].labels
    labels = None if labels is None else labels.to(device)
    sampler = sampler.of_data(labels, seed=plan.seed, look=Look(options.truncation_psi))
    try:
        values = evaluate(sampler, dataset, plan.metrics, device=device)
    except MetricUnavailable as error:
        raise UserError(str(error)) from error
    record = _record(options, sampler, plan, dataset, values)
    print(f"{options.checkpoint}: {plan.metrics.samples} samples, {len(dataset)} real images of {dataset.name}")
    for name, value in values.items():
        print(f"  {name:<20} {value:12.5g}")
    print(json.dumps(record))
    run_dir = Path(options.checkpoint)
    if (run_dir / "config.yaml").is_file():
        path = run_dir / f"metrics-{round(record['kimg']):06d}.json"
        with writing(str(path)):
            write_atomically(path, f"{json.dumps(record, indent=2)}\n".encode())
    return values


def _make_plan(options: EvaluateOptions, sampler: Sampler) -> _Plan:
    """The run's settings, or the defaults if the checkpoint lies in no run folder, with the options over them."""
    config_file = _run_config_file(Path(options.checkpoint))
    if config_file is None:
        if options.data.path is None:
            raise UserError(f"data.path: not given, and {options.checkpoint} lies in no run folder with a config.yaml")
        data = DataConfig(resolution=sampler.image_shape[2], labels=sampler.num_classes > 0)
        metrics, seed = MetricsConfig(), 0
    else:
        config = load_config(config_file)
        data, metrics, seed = config.data, config.metrics, config.run.seed
    metrics = _override(metrics, options.metrics)
    if not metrics.names:
        raise UserError("metrics.names is [], expected one or more of them")
    return _Plan(_override(data, options.data), metrics, seed if options.seed is None else options.seed)


def _override(settings: Settings, options: DataOptions | MetricsOptions) -> Settings:
    given = {name: value for name, value in vars(options).items() if value is not None}
    return dataclasses.replace(settings, **given)


def _run_config_file(checkpoint: Path) -> Path | None:
    """config.yaml of the run folder that is `checkpoint` or holds it as checkpoints/<kimg>/<file>, or best/..."""
    folders = named(checkpoint).resolve().parents[:2]
    runs = [checkpoint, *(folder.parent for folder in folders if folder.name in (FOLDER, best.FOLDER))]
    return next((run / "config.yaml" for run in runs if (run / "config.yaml").is_file()), None)


def _check_match(sampler: Sampler, dataset: ImageDataset) -> None:
    for name, of_generator, of_data in (
        ("resolution", sampler.image_shape[2], dataset.resolution),
        ("channels", sampler.image_shape[0], dataset.channels),
        ("classes", sampler.num_classes, dataset.num_classes),
    ):
        if of_generator != of_data:
            raise UserError(f"data.path: {dataset.name} has {name} {of_data}, expected {of_generator} as the generator")


def _record(
    options: EvaluateOptions, sampler: Sampler, plan: _Plan, dataset: ImageDataset, values: dict[str, float]
) -> dict[str, Any]:
    """What the JSON says: the metrics and what they depend on."""
    return {
        "checkpoint": options.checkpoint,
        "steps": sampler.steps,
        "kimg": saved_kimg(options.checkpoint),
        "dataset": dataset.name,
        **provenance(plan.metrics, dataset.name),
        "seed": plan.seed,
        "truncation_psi": options.truncation_psi,
        **{f"metric/{name}": None if math.isnan(value) else value for name, value in values.items()},
    }
