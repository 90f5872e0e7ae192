"""What a run folder that is there means for the run that is asked for: nothing left to do, or other settings."""

import dataclasses
import json
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from smartfast.config.parse import config_to_dict, config_to_yaml, load_config
from smartfast.config.schema import Config, SmartConfig
from smartfast.core.checkpoint import find_checkpoint, has_checkpoint
from smartfast.core.files import write_atomically
from smartfast.core.plane import PREFIX as PLANE_PREFIX
from smartfast.core.run_log import read_rows
from smartfast.errors import UserError
from smartfast.families import FAMILIES

CONFIG_FILE = "config.yaml"
_BUNDLED = ("digits",)  # data and a scorer; they come before a folder of that name


class Rule(Enum):
    """What becomes of a run that is resumed under another value of a setting."""

    FREE = "goes on without a word: no number of the run depends on it"
    SAID = "goes on, and says so: what is saved, measured or rounded changes"
    REFUSED = "stops, unless run.allow_changes: the run would compute something else from here on"


def _names(group: str, fields: str) -> tuple[str, ...]:
    return tuple(f"{group}.{field}" for field in fields.split())


TABLE: dict[Rule, tuple[str, ...]] = {
    Rule.REFUSED: (
        *_names("data", "resolution labels mirror holdout"),
        *_names("run", "seed init_from"),
        *_names("augment", "mode pipe p target kimg interval max_p"),
        *_names("optim", "batch lr_g lr_d betas eps ema_kimg ema_rampup"),
        *_names("smart", "null_class weight balance distance frequency separate_pass"),
        *_names("smart", "batch_fraction through_network crop downscale"),
    ),
    Rule.SAID: (
        *("data.path", "smart.scorer"),  # may have moved: the fingerprints of their files decide
        *_names("run", "tick_kimg snapshot_ticks keep_checkpoints keep_best tracker max_bad_steps"),
        *_names("metrics", "names every_ticks where samples batch features weights reference"),
        *_names("optim", "batch_gpu"),  # as the number of processes: what runs out of memory may go on in smaller parts
        *_names("smart", "precision timesteps noise_to_signal"),  # two forms of one interval, see `check_interval`
        *_names("perf", "preset preferred kernels verify tune precision compile cuda_graphs channels_last attention"),
    ),
    Rule.FREE: (
        *_names("run", "dir kimg max_hours hang_sec allow_changes dry_run"),
        *_names("smart", "scorer_options self_check"),  # the options once they are in use: see `check_scorer_options`
        *_names("data", "cache workers classes"),
        *_names("perf", "profile cpu_threads"),
    ),
}
"""The rule of every setting; one that is not here is refused, as all of a family's `gan` and `loss` are."""


class Change(NamedTuple):
    """A setting, dotted, that differs from the run's, with plain values."""

    name: str
    old: Any
    new: Any
    rule: Rule


def changes(saved: Config, config: Config) -> list[Change]:
    """Every setting in which two configurations differ, in the order of `TABLE`."""
    rules = {name: rule for rule, names in TABLE.items() for name in names}
    if FAMILIES[saved.gan.family].depends_on_length(saved):
        rules["run.kimg"] = Rule.SAID
    order = {name: place for place, name in enumerate(rules)}  # what is not in the table, the networks, comes first
    old, new = (_flat(with_absolute_paths(one)) for one in (saved, config))
    found = [
        Change(name, old.get(name), new.get(name), rules.get(name, Rule.REFUSED))
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    return sorted(found, key=lambda change: order.get(change.name, -1))


def check_changes(run_dir: Path, config: Config) -> list[str]:
    """Compare with the configuration of the run that `config` would resume; reads only.

    Returns:
        Lines that say every difference that is not free; none where no run is there.

    Raises:
        UserError: One of them is refused; the lines are printed before it is raised.
    """
    saved_file = run_dir / CONFIG_FILE
    if not has_checkpoint(run_dir):
        return []
    if not os.path.lexists(saved_file):
        return [f"resume: {saved_file} is missing, so nobody can tell which settings have changed"]
    found = [change for change in changes(_load(saved_file), config) if change.rule is not Rule.FREE]
    lines = [f"resume: {change.name}: {change.old} -> {change.new}" for change in found]
    refused = [change for change in found if change.rule is Rule.REFUSED]
    if refused and not config.run.allow_changes:
        print("\n".join(lines))
        first, *others = refused
        more = f" (and {', '.join(change.name for change in others)} changed too)" if others else ""
        raise UserError(
            f"{first.name} is {first.new}, but the run in {run_dir} was started with {first.old}{more}; "
            "choose another run.dir, the old value, or run.allow_changes true"
        )
    return lines


def with_saved_images_at_a_time(run_dir: Path, config: Config, processes: int) -> Config:
    """The configuration with the optim.batch_gpu of the run that it resumes, where it leaves the choice to the memory
    and that number still divides the share of a process.

    Raises:
        UserError: The run's settings cannot be read.
    """
    saved_file = run_dir / CONFIG_FILE
    if config.optim.batch_gpu != "auto" or not has_checkpoint(run_dir) or not os.path.lexists(saved_file):
        return config
    saved = _load(saved_file).optim.batch_gpu
    if isinstance(saved, int) and config.optim.batch // processes % saved:
        return config
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_gpu=saved))


def check_interval(run_dir: Path, config: Config, interval_of: Callable[[SmartConfig], object]) -> None:
    """Raise UserError if the run that `config` would resume drew its timesteps from another interval.

    interval_of: What smart.timesteps or smart.noise_to_signal mean under the scorer's schedule.
    """
    if config.run.allow_changes or not has_checkpoint(run_dir) or not (run_dir / CONFIG_FILE).is_file():
        return
    before, now = interval_of(_load(run_dir / CONFIG_FILE).smart), interval_of(config.smart)
    if before != now:
        raise UserError(
            f"smart.timesteps, smart.noise_to_signal: {now}, but the run in {run_dir} was started with {before}; "
            "choose another run.dir, the old value, or run.allow_changes true"
        )


def check_scorer_options(run_dir: Path, config: Config) -> None:
    """Raise UserError if the run that `config` would resume read its scorer otherwise.

    config: With the options in use, as the run's own config.yaml has them.
    """
    if config.run.allow_changes or not has_checkpoint(run_dir) or not (run_dir / CONFIG_FILE).is_file():
        return
    before, now = (dataclasses.asdict(one.smart.scorer_options) for one in (_load(run_dir / CONFIG_FILE), config))
    for name, old in before.items():
        if old is not None and old != now[name]:
            raise UserError(
                f"smart.scorer_options.{name} is {now[name]}, but the run in {run_dir} was started with {old}; "
                "choose another run.dir, the old value, or run.allow_changes true"
            )


def write_config(run_dir: Path, config: Config, *, images: int) -> None:
    """Make `config` the run's, where it says something else; an older one that a resumed run changes stays beside it.

    Args:
        run_dir: Run folder; made where it is missing.
        config: What the run goes on with.
        images: Real images seen so far; the older file is named after them.
    """
    config, saved_file = with_absolute_paths(config), run_dir / CONFIG_FILE
    if saved_file.is_file():
        found = changes(_load(saved_file), config) if images else None
        if found == []:
            return
        older = run_dir / f"config.{images / 1000:010.3f}.yaml"
        if found and not older.exists() and any(change.rule is not Rule.FREE for change in found):
            write_atomically(older, saved_file.read_bytes())
    write_atomically(saved_file, config_to_yaml(config).encode())


def with_absolute_paths(config: Config) -> Config:
    """The same configuration as it has to be written to mean the same from any folder."""
    scorer, metrics = config.smart.scorer, config.metrics
    weights, reference = (file and absolute(file) for file in (metrics.weights, metrics.reference))
    start = config.run.init_from and os.path.abspath(config.run.init_from)  # it may be gone when the run is resumed
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, dir=os.path.abspath(config.run.dir), init_from=start),
        data=dataclasses.replace(config.data, path=absolute(config.data.path)),
        smart=dataclasses.replace(config.smart, scorer=scorer and absolute(scorer)),
        metrics=dataclasses.replace(metrics, weights=weights, reference=reference),
    )


def absolute(name: str) -> str:
    """The absolute path of a file or folder that is there, with the `kind:` before it; any other name as it is."""
    if name in _BUNDLED or name.startswith(PLANE_PREFIX):
        return name
    kind, colon, rest = ("", "", name) if os.path.exists(name) else name.rpartition(":")
    rest = os.path.expanduser(rest)
    return f"{kind}{colon}{os.path.abspath(rest)}" if rest and os.path.exists(rest) else name


def completed_kimg(run_dir: Path, kimg: float, *, is_measured: bool) -> float | None:
    """How far a run of `kimg` kimg came that needs nothing more, None where there is something left to do.

    Complete is one whose report is younger than its newest checkpoint, and that was measured there if `is_measured`: a
    run that was meant to be longer has a report of its last snapshot too.
    """
    report = run_dir / "report.html"
    if not report.is_file():
        return None
    try:
        index = find_checkpoint(run_dir) / "checkpoint.json"
    except UserError:  # a report and no checkpoint that can be read
        return None
    images = json.loads(index.read_text())["images"]
    if images < round(kimg * 1000) or report.stat().st_mtime < index.stat().st_mtime:
        return None
    rows = read_rows(run_dir / "metrics.jsonl") if is_measured else []
    if is_measured and not any(row["kind"] == "metrics" and round(1000 * row["kimg"]) == images for row in rows):
        return None
    return images / 1000


def _load(path: Path) -> Config:
    if not path.is_file():
        raise UserError(f"{path}: expected a file with the settings of the run, found a folder or a link to nothing")
    try:
        return load_config(path)
    except (UserError, OSError, ValueError) as error:  # not UTF-8, the last
        raise UserError(f"{path}: expected the settings of the run, found: {error}") from error


def _flat(config: Config) -> dict[str, Any]:
    return {
        f"{group}.{key}": value for group, fields in config_to_dict(config).items() for key, value in fields.items()
    }
