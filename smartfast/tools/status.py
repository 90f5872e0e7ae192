"""`smartfast status`: how far a run is and how it does, from the files of its folder alone."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smartfast.config.ranges import FilePath, in_range
from smartfast.core.best import best_of
from smartfast.core.checkpoint import FOLDER
from smartfast.core.run_lock import is_held, owner_name
from smartfast.core.run_log import read_rows
from smartfast.core.text import format_duration, printable
from smartfast.errors import UserError
from smartfast.metrics.names import values_of_row

_WARNINGS = 5
Row = Mapping[str, Any]


@dataclass(frozen=True)
class StatusOptions:
    """What a training does, from its folder alone: smartfast status RUN."""

    run: FilePath
    """Run folder."""


def status_command(options: StatusOptions) -> list[str]:
    """Print what there is to say of a run, and return it.

    Raises:
        UserError: It is no run folder.
    """
    lines = status_lines(Path(in_range(options).run), now_sec=time.time())
    print("\n".join(lines))
    return lines


def status_lines(run_dir: Path, *, now_sec: float) -> list[str]:
    """The lines of `smartfast status`.

    Args:
        run_dir: Run folder.
        now_sec: The time, in seconds since the epoch, for how old the last sign of life is.

    Raises:
        UserError: It is no run folder.
    """
    rows, infos = read_rows(run_dir / "metrics.jsonl"), _checkpoints(run_dir)
    is_running = is_held(run_dir)
    if not (rows or infos or is_running or (run_dir / "config.yaml").is_file()):
        raise UserError(f"{run_dir}: expected a run folder, found no run.lock, config.yaml or metrics.jsonl in it")
    config = _config(run_dir)
    wanted_kimg = config.get("run", {}).get("kimg")
    ticks = [row for row in rows if row["kind"] == "tick"]
    lines = [f"{run_dir}: {_state(run_dir, is_running, infos, wanted_kimg)}"]
    age_sec = max(now_sec - (run_dir / "metrics.jsonl").stat().st_mtime, 0.0) if rows else 0.0
    if ticks:
        lines.append(_progress(ticks[-1], wanted_kimg, age_sec if is_running else None))
    elif is_running:
        lines.append("progress: no tick has ended yet")
    lines += _metrics([row for row in rows if row["kind"] == "metrics"], config)
    best = best_of(run_dir)
    if best is not None:
        lines.append(f"best: {printable(best.metric)} {best.value:.4g} at {best.kimg:.3f} kimg")
    if infos:
        lines.append("checkpoints: " + ", ".join(f"{info['kimg']:.3f}" for info in infos) + " kimg")
        lines.append(f"device: {printable(str(infos[-1].get('device', 'unknown')))}{_memory(ticks)}")
    warnings = [row for row in rows if row["kind"] == "warning"]
    lines += [f"warning at {row['kimg']:.1f} kimg: {printable(str(row.get('line')))}" for row in warnings[-_WARNINGS:]]
    return lines


def _state(run_dir: Path, is_running: bool, infos: Sequence[Row], wanted_kimg: Any) -> str:
    """Whether it trains, and if not, why not."""
    owner = owner_name(run_dir)
    if is_running:
        return f"trains ({owner})"
    if owner is not None:
        return f"died ({owner} no longer runs); the same command goes on from the newest checkpoint"
    is_reported = (run_dir / "report.html").is_file()
    if infos and isinstance(wanted_kimg, int | float) and infos[-1]["kimg"] >= wanted_kimg and is_reported:
        return "complete"
    return "does not train; the same command goes on" if infos else "does not train, and has saved nothing yet"


def _progress(tick: Row, wanted_kimg: Any, age_sec: float | None) -> str:
    kimg, parts = tick["kimg"], []
    if isinstance(wanted_kimg, int | float) and wanted_kimg > 0:
        parts.append(f"{kimg:.1f} of {wanted_kimg:g} kimg ({100 * kimg / wanted_kimg:.0f} %)")
    else:
        parts.append(f"{kimg:.1f} kimg")
    for key, text in (("tick", "tick {:.0f}"), ("sec_per_kimg", "{:.2f} s/kimg")):
        if isinstance(tick.get(key), int | float):
            parts.append(text.format(tick[key]))
    if isinstance(tick.get("time_sec"), int | float):
        parts.append(f"{format_duration(tick['time_sec'])} so far")
    if age_sec is not None:
        if isinstance(tick.get("left_sec"), int | float):
            parts.append(f"about {format_duration(tick['left_sec'] - age_sec)} left")
        parts.append(f"last row {format_duration(age_sec)} ago")
    return f"progress: {', '.join(parts)}"


def _metrics(evaluations: Sequence[Row], config: Mapping[str, Any]) -> list[str]:
    """The last evaluation."""
    if not evaluations:
        return []
    features = str(config.get("metrics", {}).get("features", "inception"))
    values = values_of_row(evaluations[-1], features)
    shown = ", ".join(f"{printable(str(name))} {value:.4g}" for name, value in values.items())
    return [f"metrics at {evaluations[-1]['kimg']:.1f} kimg: {shown or 'none'}"]


def _memory(ticks: Sequence[Row]) -> str:
    last = ticks[-1] if ticks else {}
    named = {"GPU": last.get("gpu_mem_gib"), "main": last.get("cpu_mem_gib")}
    found = [f"{value:.2f} GiB of {name} memory" for name, value in named.items() if isinstance(value, float) and value]
    return f", {', '.join(found)}" if found else ""


def _checkpoints(run_dir: Path) -> list[dict[str, Any]]:
    """What the checkpoint.json of each checkpoint says, oldest first."""
    infos = []
    for index in (run_dir / FOLDER).glob("[0-9]*.[0-9][0-9][0-9]/checkpoint.json"):
        try:
            info = json.loads(index.read_text())
            infos.append(info | {"kimg": info["images"] / 1000})
        except (OSError, ValueError, KeyError, TypeError):  # pruned in this moment, or damaged
            continue
    return sorted(infos, key=lambda info: info["kimg"])


def _config(run_dir: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((run_dir / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {name: group for name, group in found.items() if isinstance(group, dict)} if isinstance(found, dict) else {}
