"""report.html of a run folder: the main numbers, curves, sample sheets, an interpolation strip and where the time went.

One file without external parts. Whatever a run folder lacks is left out of the report or said in it.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from PIL import Image

from smartfast.config.families import DEFAULT_FAMILY
from smartfast.config.schema import MetricsConfig
from smartfast.core.checkpoint import find_checkpoint
from smartfast.core.files import write_atomically
from smartfast.core.grids import to_pillow
from smartfast.core.run_log import read_rows
from smartfast.core.text import format_duration
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.sampling import Sampler, draw_path
from smartfast.families.saved import open_sampler
from smartfast.report import page as html
from smartfast.report.plots import SPEED_PANEL, draw_panels
from smartfast.report.quality import quality_section

Row = Mapping[str, Any]

_TIMES = ("time_sec", "sec_per_tick", "sec_per_kimg", "images_per_sec")  # what the report needs of a tick
_SHEETS = 6  # sample sheets over time, the first and the last among them
_SHEET = re.compile(r"fakes(\d+(?:\.\d{3})?)\.png")
_STRIP_COLUMNS, _STRIP_ROWS = 10, 5


class PhaseTime(NamedTuple):
    """What a phase cost: ms per run, runs per thousand images, seconds per thousand images."""

    phase: str
    ms_per_run: float | None
    runs_per_kimg: float | None
    sec_per_kimg: float


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder from what it holds.

    Returns:
        The report's path.

    Raises:
        UserError: There is no metrics.jsonl.
    """
    run_dir = Path(run_dir)
    log = run_dir / "metrics.jsonl"
    if not log.is_file():
        raise UserError(f"{run_dir}: expected a run folder, found no metrics.jsonl in it")
    rows = read_rows(log)
    ticks = [row for row in rows if row["kind"] == "tick" and all(isinstance(row.get(k), int | float) for k in _TIMES)]
    evaluations = [row for row in rows if row.get("kind") == "metrics"]
    measured = [row for row in rows if row.get("kind") == "measured"]
    config_file = run_dir / "config.yaml"
    config_text = config_file.read_text() if config_file.is_file() else ""
    config, info = yaml.safe_load(config_text) or {}, _checkpoint_info(run_dir)
    sections = [
        html.section("Overview", html.facts(headline(ticks, info))),
        quality_section(evaluations, config.get("metrics", {}).get("features", MetricsConfig.features)),
        _samples_section(run_dir),
        _strip_section(run_dir),
        _losses_section([*ticks, *measured], config),
        _cost_section(ticks, {phase["name"]: phase["replaces"] for phase in info.get("phases", [])}),
        html.section("Configuration", html.details("config.yaml", config_text)) if config_text else "",
    ]
    text = html.page(f"Run {run_dir.resolve().name}", _subtitle(config), sections)
    target = run_dir / "report.html"
    write_atomically(target, text.encode(errors="backslashreplace"))  # names of files may be no text
    return target


def headline(ticks: Sequence[Row], info: Row) -> list[tuple[str, str]]:
    """Names and values of the figures at the top.

    Args:
        ticks: Tick rows of metrics.jsonl.
        info: checkpoint.json of the newest checkpoint, empty without one.
    """
    facts = []
    if ticks:
        last = ticks[-1]
        speed = statistics.median(row["images_per_sec"] for row in _settled(ticks))
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
    return facts or [("Training", "no tick has been logged yet")]


def phase_times(ticks: Sequence[Row], phases: Mapping[str, str | None]) -> list[PhaseTime]:
    """Where the time went, phase by phase, then the rest; the sum of sec_per_kimg is that of the ticks.

    Compiling is in neither. Where a phase takes another's place, its run is a run of the other and what it adds, which
    gets a row of its own. Without any run of the other there is nothing to subtract.

    Args:
        phases: The phase that each one takes the place of, None = of none; others of the ticks come behind them.
    """
    ticks = _settled(ticks)
    kimg = sum(row["sec_per_tick"] / row["sec_per_kimg"] for row in ticks)
    timed = sorted({key.removeprefix("ms/") for row in ticks for key in row if key.startswith("ms/")})
    order = [*phases, *(name for name in timed if name not in phases)]
    runs = {phase: sum(row.get(f"count/{phase}", 0) for row in ticks) for phase in order}
    ms = {
        phase: sum(row.get(f"ms/{phase}", 0.0) * row.get(f"count/{phase}", 0) for row in ticks) / count
        for phase, count in runs.items()
        if count
    }
    titles = {phase: phase for phase in ms}
    for phase, replaced in phases.items():
        if phase in ms and replaced in ms and replaced is not None:
            titles[phase] = f"{phase}, beyond {replaced}"
            ms[phase] -= ms[replaced]
            runs[replaced] += runs[phase]
    times = [PhaseTime(titles[p], ms[p], runs[p] / kimg, ms[p] * runs[p] / kimg / 1000) for p in ms]
    total = sum(row["sec_per_tick"] for row in ticks) / kimg
    return [*times, PhaseTime("everything else", None, None, total - sum(time.sec_per_kimg for time in times))]


def _losses_section(ticks: Sequence[Row], config: Mapping[str, Any]) -> str:
    family = FAMILIES.get(config.get("gan", {}).get("family", DEFAULT_FAMILY))
    panels = [*(family.panels if family else ()), SPEED_PANEL]
    caption = "Mean per tick; where there are 20 ticks or more, the strong line is a running mean."
    return html.section("Losses", html.plot(draw_panels(panels, ticks, smoothed=True), caption))


def _samples_section(run_dir: Path) -> str:
    sheets = [(run_dir / "reals.png", "Real images"), (run_dir / "fakes_init.png", "Before training")]
    found = [(match[1], path) for path in run_dir.glob("fakes*.png") if (match := _SHEET.fullmatch(path.name))]
    fakes = sorted((float(kimg), path) for kimg, path in found)
    sheets += [(path, f"At {kimg:g} kimg") for kimg, path in _spread(fakes, _SHEETS)]
    existing = [(path, caption) for path, caption in sheets if path.is_file()]
    if not existing:
        return html.section("Samples", html.paragraph("No sample sheets were saved."))
    return html.section("Samples", html.paragraph("With labels, each column is one class."), html.sheets(existing))


def _strip_section(run_dir: Path) -> str:
    title = "Interpolation"
    try:
        checkpoint = find_checkpoint(run_dir)
        strip = interpolation_strip(open_sampler(checkpoint))
    except UserError as error:
        return html.section(title, html.paragraph(f"Not available: {error}"))
    caption = (
        f"From one latent to another in w, one pair per row, averaged generator at {float(checkpoint.name):g} kimg"
    )
    return html.section(title, html.picture_figure(strip, caption))


def interpolation_strip(sampler: Sampler) -> Image.Image:
    """A picture of a few rows, each from the image of one seed to that of another; with labels, within one class."""
    paths = []
    for row in range(_STRIP_ROWS):
        labels = None
        if classes := sampler.num_classes:
            labels = torch.tensor([row * max(classes // _STRIP_ROWS, 1) % classes] * 2)
        seeds = torch.tensor([2 * row, 2 * row + 1])
        paths.append(draw_path(sampler, seeds, labels, steps=_STRIP_COLUMNS - 1, loop=False, batch=_STRIP_COLUMNS))
    return to_pillow(torch.cat(paths), _STRIP_COLUMNS, min_pixels=64)


def _cost_section(ticks: Sequence[Row], phases: Mapping[str, str | None]) -> str:
    title = "Cost of each phase"
    if not ticks:
        return html.section(title, html.paragraph("No tick has been logged yet."))
    times = phase_times(ticks, phases)
    total = sum(time.sec_per_kimg for time in times)
    rows = [
        [
            time.phase,
            "" if time.ms_per_run is None else f"{time.ms_per_run:.2f}",
            "" if time.runs_per_kimg is None else f"{time.runs_per_kimg:.2f}",
            f"{time.sec_per_kimg:.3f}",
            f"{100 * time.sec_per_kimg / total:.1f} %",
        ]
        for time in times
    ]
    rows.append(["total", "", "", f"{total:.3f}", "100.0 %"])
    header = ["phase", "ms per run", "runs per kimg", "seconds per kimg", "share"]
    note = (
        "Mean over the ticks, without the first one, which warms up. A phase that takes another's place is a run of "
        "that other one and what it adds; its row is the difference between the two."
    )
    return html.section(title, html.paragraph(note), html.table(header, rows, total=True))


def _subtitle(config: Mapping[str, Any]) -> str:
    def value(group: str, key: str, default: Any = "?") -> Any:
        return config.get(group, {}).get(key, default)

    score = "without score term"
    if value("smart", "frequency", 0) and value("smart", "scorer", None):
        score = (
            f"score term of {value('smart', 'scorer')} with weight {value('smart', 'weight')} "
            f"every {value('smart', 'frequency')} steps"
        )
    return f"Data {value('data', 'path')}, batch {value('optim', 'batch')}, {score}"


def _memory(ticks: Sequence[Row]) -> str:
    gpu = max(row.get("gpu_mem_gib", 0.0) for row in ticks)
    cpu = max(row.get("cpu_mem_gib", 0.0) for row in ticks)
    return f"{cpu:.2f} GiB of main memory" + (f", {gpu:.2f} GiB of GPU memory (peak)" if gpu else "")


def _checkpoint_info(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((find_checkpoint(run_dir) / "checkpoint.json").read_text())
    except UserError:
        return {}


def _settled(ticks: Sequence[Row]) -> Sequence[Row]:
    """The ticks without the first, which compiles and warms up, when there are others."""
    return ticks[1:] or ticks


def _spread(sheets: Sequence[tuple[float, Path]], count: int) -> Sequence[tuple[float, Path]]:
    """`count` of the sheets, evenly spaced, the first and the last among them."""
    if len(sheets) <= count:
        return sheets
    return [sheets[round(i * (len(sheets) - 1) / (count - 1))] for i in range(count)]
