"""What a page shows of a run, for JSON, from the files of its folder alone; nothing is written there.

Whatever a run folder lacks is left out or said in its place.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from smartfast.config.families import DEFAULT_FAMILY
from smartfast.config.schema import MetricsConfig
from smartfast.core.checkpoint import newest_info
from smartfast.core.run_log import read_rows
from smartfast.core.run_pictures import is_of_a_moment, pictures_of
from smartfast.core.text import format_duration
from smartfast.families import FAMILIES
from smartfast.families.base import Family
from smartfast.report.costs import cost_rows, phase_times, settled
from smartfast.report.curves import SPEED_PANEL, drawn, other_panels
from smartfast.report.quality import quality

Row = Mapping[str, Any]
Show = Callable[[Path], dict[str, str]]
"""Makes `src` of a picture's file, what an image element takes, or `fault`, why it has none."""

LOG, CONFIG = "metrics.jsonl", "config.yaml"
REALS, FIRST_FAKES = "reals.png", "fakes_init.png"
_TIMES = ("time_sec", "sec_per_tick", "sec_per_kimg", "images_per_sec")  # what is needed of a tick


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / LOG).is_file() or (folder / CONFIG).is_file()


def is_picture(name: str) -> bool:
    """Whether a file of a run folder is a picture that a page may show."""
    return name in (REALS, FIRST_FAKES) or is_of_a_moment(name)


def run_data(run_dir: Path, show: Show, *, most_sheets: int | None = None) -> dict[str, Any]:
    """Everything that the page shows of a run.

    Args:
        run_dir: Run folder.
        show: See `Show`.
        most_sheets: Sample sheets over time, evenly spread, the first and the last among them; None = all.
    """
    rows = read_rows(run_dir / LOG)
    ticks = [row for row in rows if _is_tick(row)]
    config_text, config = _config(run_dir)
    info = newest_info(run_dir)
    features = config.get("metrics.features", MetricsConfig.features)
    phases = {phase["name"]: phase["replaces"] for phase in info.get("phases", [])}
    return {
        "name": run_dir.resolve().name,
        "subtitle": _subtitle(config),
        "progress": _progress(max([0.0, info.get("kimg", 0.0), *(row["kimg"] for row in rows)]), ticks, config),
        "facts": headline(ticks, info),
        "warnings": [
            [f"{row['kimg']:g} kimg, {row.get('signature')}", str(row.get("line"))]
            for row in rows
            if row["kind"] == "warning"
        ],
        "quality": quality([row for row in rows if row["kind"] == "metrics"], str(features)),
        **_panels([row for row in rows if row["kind"] == "measured" or _is_tick(row)], config.get("gan.family")),
        **_pictures(run_dir, show, most_sheets),
        "costs": cost_rows(phase_times(ticks, phases)) if ticks else [],
        "settings": {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()},
        "config": config_text,
    }


def headline(ticks: Sequence[Row], info: Row) -> list[tuple[str, str]]:
    """Names and values of the figures at the top.

    Args:
        ticks: Tick rows of metrics.jsonl.
        info: checkpoint.json of the newest checkpoint, empty without one.
    """
    facts = []
    if ticks:
        last = ticks[-1]
        speed = statistics.median(row["images_per_sec"] for row in settled(ticks))
        facts += [
            ("Real images seen", f"{last['kimg']:,.1f} thousand"),
            ("Wall time", format_duration(last["time_sec"])),
            ("Speed", f"{speed:,.1f} images/s, {1000 / speed:.2f} s per thousand images (median over ticks)"),
            ("Skipped optimizer steps", f"{last.get('skipped_steps', 0):.0f}"),
            ("Memory", _memory(ticks)),
        ]
    if "device" in info:
        facts.append(("Device", str(info["device"])))
    if "versions" in info:
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items())))
    for op, reason in info.get("switched_off", {}).items():
        facts.append((f"{op} runs as plain PyTorch", str(reason)))
    return facts or [("Training", "no tick has been logged yet")]


def _progress(kimg: float, ticks: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    total: Any = config.get("run.kimg")
    left: Any = ticks[-1].get("left_sec") if ticks else None
    return {
        "kimg": kimg,
        "total": total if _is_number(total) and total > 0 else None,
        "left": format_duration(left) if _is_number(left) else None,
    }


def _family(name: Any) -> type[Family] | None:
    return FAMILIES.get(name if isinstance(name, str) else DEFAULT_FAMILY)


def _panels(rows: Sequence[Row], name: Any) -> dict[str, Any]:
    """The curves of the family with this name, and all others."""
    family = _family(name)
    panels = [*(family.panels if family else ()), SPEED_PANEL]
    return {
        "panels": drawn(panels, rows),
        "others": drawn(other_panels(panels, rows), rows),
    }


def _pictures(run_dir: Path, show: Show, most_sheets: int | None) -> dict[str, Any]:
    sheets = spread(pictures_of(run_dir, "fakes"), most_sheets)
    if (run_dir / FIRST_FAKES).is_file():
        sheets = [(None, run_dir / FIRST_FAKES), *sheets]
    strips = pictures_of(run_dir, "interpolation")[-1:]
    return {
        "reals": show(run_dir / REALS) if (run_dir / REALS).is_file() else None,
        "sheets": [{"kimg": kimg, **show(path)} for kimg, path in sheets],
        "strip": {"kimg": strips[0][0], **show(strips[0][1])} if strips else None,
    }


def spread(sheets: Sequence[Any], count: int | None) -> Sequence[Any]:
    """`count` of the sheets, evenly spaced, the first and the last among them; None = all."""
    if count is None or len(sheets) <= count:
        return sheets
    return [sheets[round(i * (len(sheets) - 1) / (count - 1))] for i in range(count)]


def _config(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """The text of config.yaml, and its settings by dotted name, none of them where it cannot be read."""
    try:
        text = (run_dir / CONFIG).read_bytes().decode(errors="backslashreplace")
        groups = yaml.safe_load(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, yaml.YAMLError) as error:
        return f"config.yaml cannot be read: {error}", {}
    if not isinstance(groups, dict):
        return text, {}
    settings: dict[str, Any] = {}
    for group, fields in groups.items():
        named = {f"{group}.{key}": value for key, value in fields.items()} if isinstance(fields, dict) else {}
        settings |= named or {str(group): fields}
    return text, settings


def _subtitle(config: Mapping[str, Any]) -> str:
    score, family = "without score term", _family(config.get("gan.family"))
    if config.get("smart.frequency") and config.get("smart.scorer"):
        score = (
            f"score term of {config['smart.scorer']} with weight {config.get('smart.weight', '?')} "
            f"every {config['smart.frequency']} steps"
        )
        if family is not None and not family.has_score_term():
            score = f"student of {config['smart.scorer']}"
    return f"Data {config.get('data.path', '?')}, batch {config.get('optim.batch', '?')}, {score}"


def _memory(ticks: Sequence[Row]) -> str:
    gpu = max(row.get("gpu_mem_gib", 0.0) for row in ticks)
    cpu = max(row.get("cpu_mem_gib", 0.0) for row in ticks)
    return f"{cpu:.2f} GiB of main memory" + (f", {gpu:.2f} GiB of GPU memory (peak)" if gpu else "")


def _is_tick(row: Row) -> bool:
    return row["kind"] == "tick" and all(_is_number(row.get(key)) for key in _TIMES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
