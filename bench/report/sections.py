"""The report's tables: Markdown from rows of results, a function for each suite."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.base.results import Result, Row
from bench.report.rows import (
    cost,
    fastest,
    group,
    mebibytes,
    milliseconds,
    number,
    percent,
    row_differs,
    share_of_limit,
    speed_up,
    timing_of,
)
from bench.report.table import markdown_table

_ERRORS_SHOWN = 5
_SKIPPED_SHOWN = 3
_CACHES = {
    True: "Caches are emptied before every call.",
    False: "Caches hold what the call before left there, so that a small copy exceeds the limit.",
}


def machine_text(device: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The device, its settings, and where every number comes from."""
    about = ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("type", "name"))
    versions = ", ".join(f"{key} {value}" for key, value in results[-1].versions.items())
    rows = [
        [
            result.suite,
            f"`{result.command}`",
            f"[{result.started}](results/{result.path.name})",
            result.commit,
            number(result.duration_sec, "s"),
            _completeness(result),
        ]
        for result in results
    ]
    table = markdown_table(["suite", "command", "file", "commit", "took", "left out"], rows)
    return f"{about}; {versions}\n\n{table}"


def _completeness(result: Result) -> str | None:
    notes = [f"stopped: {result.stopped}"] if result.stopped else []
    more = len(result.skipped) - _SKIPPED_SHOWN
    notes += [*result.skipped[:_SKIPPED_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return "; ".join(notes) or None


def limits_table(results: Sequence[Result]) -> str:
    """The machine's ceilings as each file's process measured them."""
    measured = [(result.suite, result.limits) for result in results if result.limits]
    kinds = list(dict.fromkeys(kind for _, limits in measured for kind in limits.flops_per_sec))
    rows = [
        ["copy, GB/s read + written", *(number(limits.copy_bytes_per_sec / 1e9) for _, limits in measured)],
        *(
            [f"{kind} product, GFLOP/s", *(number(limits.flops_per_sec[kind] / 1e9) for _, limits in measured)]
            for kind in kinds
        ),
        ["empty operation, us", *(number(limits.launch_sec * 1e6) for _, limits in measured)],
    ]
    return markdown_table(["limits, measured with", *(suite for suite, _ in measured)], rows)


def regularizer_section(rows: Sequence[Row]) -> str:
    """The waterfall, the alternatives, and the sweep."""
    text = [
        "s/kimg of the score term alone at the configuration's frequency: the time of one term, which every "
        "`frequency`-th iteration has, is what was measured. Each step keeps the changes above it. Cosine and norm "
        "ratio hold the term's gradient for the generator's weights against the recipe's. Floor: its arithmetic alone. "
        "Memory: beyond what was there before, the scorer's weights apart."
    ]
    parts = group(rows, "kind", "config")
    for (kind, config), members in parts.items():
        if kind == "waterfall":
            text += [f"`{config}`, {_scorer_text(members[0])}", _waterfall_table(members)]
    alternatives = [row for row in rows if row.get("kind") == "alternative"]
    if alternatives:
        text += ["Other choices, against the step that they change:", _alternatives_table(alternatives)]
    sweep = [row for row in rows if row.get("kind") == "sweep"]
    if sweep:
        text += ["Recipe and ours, s/kimg by frequency:", _sweep_table(sweep)]
    return "\n\n".join([*text, *errors(rows)])


def _scorer_text(row: Row) -> str:
    return (
        f"scorer {row['scorer']} ({number(row.get('gflop_per_image'))} GFLOP a term and image), {row['resolution']} "
        f"pixels, batch {row['batch']}, every {row['frequency']} iterations"
    )


def _waterfall_table(rows: Sequence[Row]) -> str:
    steps = sorted(rows, key=lambda row: row["order"])
    cells = []
    for before, row in zip([None, *steps], steps, strict=False):
        cells.append(
            [
                row["step"],
                cost(row),
                speed_up(before, row),
                speed_up(steps[0], row) if before else None,
                share_of_limit(row),
                mebibytes(row.get("peak_bytes")),
                _digits(row.get("cosine")),
                _digits(row.get("norm_ratio")),
            ]
        )
    header = ["step", "s/kimg", "this step", "all steps", "share of limit", "memory, MiB", "cosine", "norm ratio"]
    return markdown_table(header, cells)


def _alternatives_table(rows: Sequence[Row]) -> str:
    bases = {(row["config"], row["step"]): row for row in rows if not row.get("base")}
    cells = [
        [
            row["config"],
            row["base"],
            row["step"],
            cost(row),
            speed_up(bases.get((row["config"], row["base"])), row),
            share_of_limit(row),
            mebibytes(row.get("peak_bytes")),
            _digits(row.get("cosine")),
            _digits(row.get("norm_ratio")),
        ]
        for row in rows
        if row.get("base")
    ]
    header = ["config", "step", "changed to", "s/kimg", "speed-up", "share of limit", "memory, MiB"]
    header += ["cosine", "norm ratio"]
    return markdown_table(header, cells)


def _sweep_table(rows: Sequence[Row]) -> str:
    frequencies = sorted({row["frequency"] for row in rows})
    cells = []
    for about, members in group(rows, "config", "resolution", "batch", "step").items():
        costs = {row["frequency"]: number(row.get("sec_per_kimg")) or "error" for row in members}
        cells.append([*about, *(costs.get(frequency) for frequency in frequencies), share_of_limit(members[0])])
    header = ["config", "pixels", "batch", "step", *(f"every {f}" for f in frequencies), "share of limit"]
    return markdown_table(header, cells)


def phases_section(rows: Sequence[Row]) -> str:
    """A line for each phase: all providers, floor, launches and idle share."""
    providers = [provider for (provider,) in group(rows, "provider")]
    cells = []
    for (config, dtype, phase), members in group(rows, "config", "dtype", "phase").items():
        by_provider = {row["provider"]: row for row in members}
        best = fastest(members)
        cells.append(
            [
                config,
                dtype,
                members[0].get("batch"),
                phase,
                *(milliseconds(by_provider.get(provider)) for provider in providers),
                speed_up(members[0], best) if best is not members[0] else None,
                number(_scaled(members[0].get("floor_sec"), 1e3)),
                share_of_limit(best),
                number(best.get("sec_per_kimg")) if best else None,
                number(best.get("launches")) if best else None,
                percent(best.get("idle_share")) if best else None,
            ]
        )
    header = ["config", "precision", "batch", "phase", *(f"{provider}, ms" for provider in providers)]
    header += ["fastest", "floor, ms", "share of limit", "s/kimg", "launches", "GPU idle"]
    about = (
        "One run of a phase over the whole batch, optimizer step included: median (quantiles 0.2 to 0.8). The columns "
        "from `fastest` on are those of the fastest provider; s/kimg at the phase's interval."
    )
    return "\n\n".join([about, markdown_table(header, cells), *_stand_ins(rows), *errors(rows)])


def train_section(rows: Sequence[Row]) -> str:
    """Whole training with and without the score term."""
    cells = []
    for (config, provider), members in group(rows, "config", "provider").items():
        with_score = next((row for row in members if row.get("score")), None)
        without = next((row for row in members if not row.get("score")), None)
        row = with_score or members[0]
        cells.append(
            [
                config,
                provider,
                row.get("dtype"),
                cost(without),
                cost(with_score),
                score_adds(without, with_score),
                number(row.get("images_per_sec")),
                share_of_limit(row),
                percent(row.get("mfu")),
                mebibytes(row.get("peak_bytes")),
                percent(row.get("data_wait_share")),
                percent(row.get("idle_share")),
            ]
        )
    header = ["config", "provider", "precision", "without score, s/kimg", "with, s/kimg", "score term adds"]
    header += ["images/s", "share of limit", "MFU", "memory, MiB", "data wait", "GPU idle"]
    about = (
        "Real iterations, optimizer and averages included. From images/s on: with the score term. MFU: the counted "
        "FLOPs against the bf16 matrix rate of a GPU, the fp32 rate of a CPU."
    )
    return "\n\n".join([about, markdown_table(header, cells), *_skipped(rows), *_stand_ins(rows), *errors(rows)])


def _skipped(rows: Sequence[Row]) -> list[str]:
    """Trainings whose optimizer skipped steps; empty without any."""
    found = [f"{row['config']}, {row['provider']}: {row['skipped_steps']}" for row in rows if row.get("skipped_steps")]
    return [f"Optimizer steps skipped because something was not finite: {'; '.join(found)}."] if found else []


def score_overhead(without: Row | None, with_score: Row | None) -> float | None:
    """What the score term adds, as a share of training without it; None where one has no time."""
    a, b = _value(without, "sec_per_kimg"), _value(with_score, "sec_per_kimg")
    return b / a - 1 if a and b else None


def score_adds(without: Row | None, with_score: Row | None) -> str | None:
    """`12 %`, or `noise` where the difference is inside the spread."""
    share = score_overhead(without, with_score)
    if without is None or with_score is None or share is None:
        return None
    return percent(share) if row_differs(without, with_score) else f"noise ({percent(share)})"


def ops_section(rows: Sequence[Row]) -> str:
    """A line for each op, configuration, mode and dtype: every provider's time against the first provider's."""
    keys = ("op", "config", "mode", "dtype", "layout")
    providers = [provider for (provider,) in group(rows, "provider")]
    cells = []
    for about, members in group(rows, *keys).items():
        calls = list(group(members, "layer").values())
        cells.append([*about, len(calls), *(_against_first(calls, provider, providers[0]) for provider in providers)])
    caches = {row.get("cold") for row in rows}
    text = (
        f"Geometric mean over the layers of the speed against `{providers[0]}`, then how many layers are faster, "
        "slower, and noise; medians of the share of the machine's limit and of the memory against it. Every layer is "
        f"in the file. {' '.join(text for cold, text in _CACHES.items() if cold in caches)}"
    )
    return "\n\n".join([text, markdown_table([*keys, "layers", *providers], cells), *errors(rows)])


def _against_first(calls: Iterable[Sequence[Row]], provider: str, first: str) -> str | None:
    ratios, shares, memory, verdicts = [], [], [], []
    for rows in calls:
        row = next((row for row in rows if row["provider"] == provider), None)
        base = next((row for row in rows if row["provider"] == first), None)
        if row is None or not timing_of(row):
            continue
        if row.get("floor_sec"):
            shares.append(row["floor_sec"] / row["median_sec"])
        if provider != first and base and timing_of(base):
            ratios.append(base["median_sec"] / row["median_sec"])
            if base.get("peak_bytes") and row.get("peak_bytes"):
                memory.append(row["peak_bytes"] / base["peak_bytes"])
            verdicts.append("noise" if not row_differs(base, row) else "faster" if ratios[-1] > 1 else "slower")
    text = []
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        counts = "/".join(str(verdicts.count(verdict)) for verdict in ("faster", "slower", "noise"))
        text.append(f"{mean:.2f}x, {counts}")
    if shares:
        text.append(f"{percent(sorted(shares)[len(shares) // 2])} of limit")
    if memory:
        text.append(f"{number(sorted(memory)[len(memory) // 2])}x memory")
    return "; ".join(text) or None


def startup_section(rows: Sequence[Row]) -> str:
    """Seconds until every phase has run once, by what compiled code there was."""
    keys = ("config", "dtype", "provider", "cache")
    cells = [
        [*(row.get(key) for key in keys), *(number(row.get(key)) for key in ("median_sec", "p20_sec", "p80_sec"))]
        for row in rows
    ]
    about = (
        "Seconds from the start of a process until training has run every phase once: median and quantiles. Cache: "
        "the compiled code that the process found."
    )
    header = ["config", "precision", "provider", "cache", "median, s", "0.2", "0.8"]
    return "\n\n".join([about, markdown_table(header, cells), *errors(rows)])


def predictions_section(rows: Sequence[Row], device: str, gpus: int) -> str:
    """Floors of every phase on one device, and of the whole, by configuration."""
    chosen = [row for row in rows if row["device"] == device and row["gpus"] == gpus]
    phases = [phase for (phase,) in group(chosen, "phase") if phase != "all"]
    cells = []
    for (config,), members in group(chosen, "config").items():
        floors = {row["phase"]: number(row["floor_sec_per_kimg"]) for row in members}
        whole = next(row for row in members if row["phase"] == "all")
        cells.append(
            [
                config,
                whole["batch"],
                whole["precision"],
                *(floors.get(phase) for phase in phases),
                floors["all"],
                percent(whole.get("score_overhead")),
            ]
        )
    return markdown_table(["config", "batch", "precision", *phases, "all", "score term adds"], cells)


def devices_table(rows: Sequence[Row]) -> str:
    """Floors of the whole training on every device, by configuration and number of GPUs."""
    whole = [row for row in rows if row["phase"] == "all"]
    columns = list(group(whole, "config", "gpus"))
    cells = []
    for (device, source), members in group(whole, "device", "source").items():
        floors = {(row["config"], row["gpus"]): number(row["floor_sec_per_kimg"]) for row in members}
        cells.append([device, *(floors.get(column) for column in columns), source])
    return markdown_table(["GPU", *(f"{config}, {gpus} GPU" for config, gpus in columns), "ceilings from"], cells)


def errors(rows: Sequence[Row]) -> list[str]:
    """What got no time and why, the same reasons together; empty without any."""
    reasons = group([row for row in rows if row.get("error")], "error")
    if not reasons:
        return []
    lines = [
        f"- {len(members)} x {_one_line(str(error))} ({_where(members[0])})"
        for (error,), members in list(reasons.items())[:_ERRORS_SHOWN]
    ]
    more = [f"- and {len(reasons) - _ERRORS_SHOWN} more reasons"] if len(reasons) > _ERRORS_SHOWN else []
    return ["Without a time:\n\n" + "\n".join(lines + more)]


def _stand_ins(rows: Sequence[Row]) -> list[str]:
    """What was not the real thing; empty where everything was."""
    found = {row["config"]: row["stand_ins"] for row in rows if row.get("stand_ins")}
    return [f"With stand-ins: {'; '.join(f'{config}: {what}' for config, what in found.items())}."] if found else []


def _where(row: Row) -> str:
    names = [row.get(key) for key in ("config", "op", "layer", "mode", "phase", "step", "provider")]
    return ", ".join(str(name) for name in names if name is not None)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.5f}"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _value(row: Row | None, key: str) -> float | None:
    return row.get(key) if row else None
