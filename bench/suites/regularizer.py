"""The regularizer suite: what the score term costs per 1000 images, from the paper's recipe to ours, and what it keeps.

Rows have a kind. `waterfall`: the steps of score_steps.py, in order. `alternative`: a step (`base`) with one more
change, and the step itself, measured in the same turns. `sweep`: recipe and ours at other frequencies, batches and
resolutions. Cosine and norm ratio compare the term's gradient for the generator's weights with the recipe's, on the
same images with the same noise and timesteps. Seconds per kimg are arithmetic on the measured time of one term, which
every `frequency`-th iteration has. floor_sec is that of the arithmetic alone. peak_bytes leaves out the scorer's
weights.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.base.jobs import job_config
from bench.base.options import Options
from bench.base.results import Row, Run
from bench.base.timing import Failure, Timing, differs, measure
from bench.base.ways import with_capture
from bench.suites.score_steps import Setting, Step, Term, alternatives, default_batch, swept, waterfall
from smartfast.config.schema import Config
from smartfast.errors import UserError

FREQUENCIES = (1, 2, 4, 8, 16)
SCALES = (0.5, 2.0)
"""Factors of batch and resolution."""
LARGEST_RESOLUTION = 256
MIN_COSINE, MAX_NORM_ERROR = 0.99, 0.05
"""A step that is to keep the recipe's gradient and misses one of these has a wrong result."""
QUICK_BATCH = 2
Part = Callable[[str, Config, Options, Run], None]
_CONFIGS = {"cuda": ("lsun_bedroom256", "imagenet64", "cifar10"), "cpu": ("digits",)}


def run(options: Options, results: Run) -> None:
    """Measure the waterfall of every configuration, then alternatives and sweeps while the time budget lasts."""
    torch.backends.cudnn.benchmark = True  # as the trainer
    names = options.configs or _CONFIGS[options.device.type]
    configs = {Path(name).stem: job_config(name, options.overrides) for name in names}
    for name in [name for name, config in configs.items() if not config.smart.frequency]:
        results.skip(f"{name}: smart.frequency is 0, there is no score term")
        del configs[name]
    parts: tuple[tuple[str, Part], ...] = (
        ("waterfall", measure_waterfall),
        ("alternative", measure_alternatives),
        ("sweep", measure_sweep),
    )
    for title, part in parts:
        for name, config in configs.items():
            if options.time_left_sec():
                with results.attempt({"kind": title, "config": name}):
                    part(name, config, options, results)
            else:
                results.skip(f"{title} of {name}")
            _free_memory()


def measure_waterfall(name: str, config: Config, options: Options, results: Run) -> None:
    """Rows of the waterfall, and the recipe and ours over the frequencies."""
    setting = fitting_setting(name, config, options, results)
    steps = _affordable(waterfall(options.device.type), name, options, results)
    measured = measure_steps(setting, steps, options)
    before: Measured | None = None
    for order, one in enumerate(measured):
        results.add({"kind": "waterfall", "config": name, "order": order, **one.row(results, before)})
        before = one
    _add_sweep(name, [measured[0], measured[-1]], results)


def measure_alternatives(name: str, config: Config, options: Options, results: Run) -> None:
    """Rows of the alternatives and of the steps that they change."""
    setting = fitting_setting(name, config, options, results)
    pairs = alternatives(options.device.type)
    bases = {other.name: base.name for base, other in pairs}
    steps = {step.name: step for pair in pairs for step in pair}
    affordable = _affordable(list(steps.values()), name, options, results)
    measured = {one.step.name: one for one in measure_steps(setting, affordable, options)}
    for step, one in measured.items():
        base = bases.get(step)
        row = one.row(results, measured[base] if base else None)
        results.add({"kind": "alternative", "config": name, "base": base, **row})


def measure_sweep(name: str, config: Config, options: Options, results: Run) -> None:
    """Recipe and ours at half and twice the batch, at half and twice the resolution."""
    if options.quick:
        results.skip(f"sweep of {name}: --quick")
        return
    steps = swept(options.device.type)
    for about, make in _other_settings(config, options.device):
        if not options.time_left_sec():
            results.skip(f"sweep of {name}: {about}")
            continue
        try:
            _measure_sweep_point(name, make(), steps, options, results)
        except torch.OutOfMemoryError:
            results.skip(f"sweep of {name}: {about}: the recipe does not fit in memory")
        _free_memory()


def _measure_sweep_point(name: str, setting: Setting, steps: Sequence[Step], options: Options, results: Run) -> None:
    setting.recipe_gradient()  # raises where the recipe does not fit
    _add_sweep(name, measure_steps(setting, steps, options), results)


def fitting_setting(name: str, config: Config, options: Options, results: Run) -> Setting:
    """A setting whose recipe fits in memory: its gradient, which all steps are held against, is there.

    Raises:
        torch.OutOfMemoryError: It does not fit with one image either.
    """
    batch = QUICK_BATCH if options.quick else default_batch(config)
    setting: Setting | None
    while True:
        try:
            setting = Setting(config, options.device, batch=batch)
            setting.recipe_gradient()
            return setting
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        results.skip(f"{name} with batch {batch}: the recipe does not fit in memory")
        setting = None  # its networks go before the next ones come
        batch //= 2
        _free_memory()


def _affordable(steps: Sequence[Step], name: str, options: Options, results: Run) -> list[Step]:
    """Without those that take minutes to compile, for a trial."""
    left_out = [step.name for step in steps if step.way.compiled and options.quick]
    if left_out:
        results.skip(f"{name}, {', '.join(left_out)}: --quick")
    return [step for step in steps if step.name not in left_out]


def _other_settings(config: Config, device: torch.device) -> Iterator[tuple[str, Callable[[], Setting]]]:
    batch = default_batch(config)
    for scale in SCALES:
        yield f"batch {int(batch * scale)}", partial(Setting, config, device, batch=int(batch * scale))
    for scale in SCALES:
        resolution = int((config.data.resolution or 0) * scale)
        if resolution <= LARGEST_RESOLUTION:
            yield f"resolution {resolution}", partial(Setting, config, device, enlarge=scale)


def _add_sweep(name: str, measured: Sequence["Measured"], results: Run) -> None:
    for one in measured:
        for frequency in FREQUENCIES:
            results.add({"kind": "sweep", "config": name, **one.row(results, None, frequency)})


@dataclass(frozen=True)
class Measured:
    """A step on a setting. cosine, norm_ratio: Against the recipe's gradient, None where the step gave none."""

    step: Step
    setting: Setting
    outcome: Timing | Failure
    scorer_bytes: int | None
    cosine: float | None
    norm_ratio: float | None

    def row(self, results: Run, before: "Measured | None", frequency: int | None = None) -> Row:
        """The keys that all kinds share.

        Args:
            results: Whose limits give the floor.
            before: What the step changes; `is_noise` says whether the difference is within the spread.
            frequency: Iterations from one term to the next; None = the configuration's.
        """
        setting, way = self.setting, self.step.way
        flops = setting.flops(way)
        row: Row = {
            "step": self.step.name,
            "scorer": setting.scorer_name,
            "resolution": setting.resolution,
            "batch": setting.batch,
            "frequency": frequency or setting.config.smart.frequency,
            "arithmetic": way.arithmetic,
            "keeps_gradient": self.step.keeps_gradient,
            "cosine": self.cosine,
            "norm_ratio": self.norm_ratio,
            "gflop_per_image": flops / setting.batch / 1e9,
            "scorer_bytes": self.scorer_bytes,
            **self.outcome.row(),
        }
        if results.limits is not None:
            row["floor_sec"] = results.limits.floor_sec(flops=flops, dtype=way.arithmetic)
        if isinstance(self.outcome, Timing):
            row["sec_per_kimg"] = 1000 * self.outcome.median_sec / (setting.batch * row["frequency"])
            if before is not None and isinstance(before.outcome, Timing):
                row["is_noise"] = not differs(before.outcome, self.outcome)
        return row


def measure_steps(setting: Setting, steps: Sequence[Step], options: Options) -> list[Measured]:
    """Time the steps in turns; a step whose gradient is wrong gets no time."""
    terms: dict[str, Term] = {}
    outcomes: dict[str, Timing | Failure] = {}
    for step in steps:
        try:
            terms[step.name] = Term(setting, step.way)
        except UserError as error:  # xformers does not run here
            outcomes[step.name] = Failure(str(error))
    compared: dict[str, tuple[float, float]] = {}
    keeps = {step.name: step.keeps_gradient for step in steps}

    def check(name: str, result: object) -> str | None:
        if not all(bool(x.isfinite().all()) for x in tree_leaves(result) if isinstance(x, Tensor)):
            return "wrong: not finite"
        compared[name] = compare(terms[name].generator_gradient(), setting.recipe_gradient())
        if not all(map(math.isfinite, compared[name])):
            del compared[name]
            return "wrong: the generator's gradient is not finite"
        return wrong_gradient(*compared[name]) if keeps[name] else None

    outcomes |= measure(terms, device=options.device, check=check, **options.trial)
    return [
        Measured(
            step,
            setting,
            with_capture(outcomes[step.name], terms[step.name].captured if step.name in terms else None),
            terms[step.name].scorer_bytes() if step.name in terms else None,
            *compared.get(step.name, (None, None)),
        )
        for step in steps
    ]


def compare(gradient: Tensor, expected: Tensor) -> tuple[float, float]:
    """Cosine of two gradients [parameters], and the ratio of their norms."""
    a, b = gradient.double(), expected.double()
    return torch.cosine_similarity(a, b, dim=0).item(), (a.norm() / b.norm()).item()


def wrong_gradient(cosine: float, norm_ratio: float) -> str | None:
    """Why a gradient is wrong that should be the recipe's, up to rounding."""
    if cosine >= MIN_COSINE and abs(norm_ratio - 1) <= MAX_NORM_ERROR:
        return None
    return (
        f"wrong: the generator's gradient has cosine {cosine:.4f} and norm ratio {norm_ratio:.4f} to the recipe's, "
        f"expected at least {MIN_COSINE} and within {MAX_NORM_ERROR} of 1"
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
