"""bench/RESULTS.md, its plots and the table in docs/speed.md, from the files of bench/results alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.base.results import Result, Row, slug
from bench.base.ways import REFERENCE
from bench.report.plots import draw_phases, draw_roofline, draw_waterfall
from bench.report.rows import Campaign, campaigns, cost, fastest, group, percent, predictions, speed_up
from bench.report.sections import (
    devices_table,
    errors,
    limits_table,
    machine_text,
    ops_section,
    phases_section,
    predictions_section,
    regularizer_section,
    score_adds,
    startup_section,
    train_section,
)
from bench.report.table import markdown_table
from bench.report.targets import MOST_OVERHEAD, targets_table
from smartfast.core.files import write_atomically
from smartfast.errors import UserError

CAMPAIGN_COMMAND = "python -m bench all --device cuda"
PREDICTED_DEVICE = "H100 SXM"
SPREAD = "Medians, quantiles 0.2 to 0.8 in brackets; noise: the brackets overlap:"
START, END = "<!-- bench -->", "<!-- /bench -->"
_PAGE_SUITES = ("train", "regularizer")

_SECTIONS: dict[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
    "regularizer": ("The score term, one change at a time", regularizer_section),
    "train": ("Whole training", train_section),
    "phases": ("Phases", phases_section),
    "ops": ("Ops", ops_section),
    "startup": ("Start-up", startup_section),
}


def write_report(results: Sequence[Result], output: Path, page: Path | None) -> list[Path]:
    """Render the report.

    Args:
        results: Files to render, oldest first; trials are left out.
        output: Folder for RESULTS.md and plots/.
        page: File whose text between the markers is replaced; None for none.

    Returns:
        What was written.

    Raises:
        UserError: There is nothing to render, or the page has no markers.
    """
    measured = campaigns(results)
    files, predicted = predictions(results)
    if not (measured or predicted):
        raise UserError("there are no results, expected files of `python -m bench SUITE` without --quick")
    written = [output / "RESULTS.md"]
    text = [
        "# What training costs, and what the score term adds",
        "Written by `python -m bench report` from the files in [results](results), which say how each number came "
        "about. A difference within the spread, quantiles 0.2 to 0.8, is called noise. A limit is what this machine "
        "did in the same process; a floor is the least time that the limits allow for the counted work.",
    ]
    for campaign in measured:
        sections, plots = _campaign_sections(campaign, output)
        text += sections
        written += plots
    text += _target_sections(measured)
    if predicted:
        text += _prediction_sections(files, predicted)
    write_atomically(written[0], ("\n\n".join(text) + "\n").encode())
    if page is not None:
        written.append(_refresh(page, page_text(measured, predicted)))
    return written


def _campaign_sections(campaign: Campaign, output: Path) -> tuple[list[str], list[Path]]:
    text = [f"## {campaign.device['name']}", machine_text(campaign.device, campaign.results)]
    text.append(limits_table(campaign.results))
    plots = _draw(campaign, output / "plots")
    for suite, (title, section) in _SECTIONS.items():
        rows, failures = campaign.rows.get(suite, []), campaign.failures.get(suite, [])
        if rows or failures:
            text += [f"### {title}", *([section(rows)] if rows else []), *errors(failures)]
        if suite in plots:
            text.append(f"![{title}](plots/{plots[suite].name})")
    return text, list(plots.values())


def _draw(campaign: Campaign, folder: Path) -> dict[str, Path]:
    """Plots by the suite that they belong to."""
    rows, plots = campaign.rows, {}
    for suite, draw in (("regularizer", draw_waterfall), ("phases", draw_phases)):
        if any(row.get("median_sec") for row in rows.get(suite, [])):
            plots[suite] = folder / f"{slug(campaign.device['name'])}-{suite}.png"
            draw(rows[suite], plots[suite])
    limits = campaign.limits_of("ops")
    if limits and rows.get("ops"):
        plots["ops"] = folder / f"{slug(campaign.device['name'])}-roofline.png"
        draw_roofline(rows["ops"], limits, plots["ops"])
    return plots


def _target_sections(measured: Sequence[Campaign]) -> list[str]:
    gpu = next((campaign for campaign in measured if campaign.is_gpu), None)
    if gpu:
        where = (
            f"On {gpu.device['name']}; the targets are for one H100. Incomplete: nothing missed, not all measured; one "
            "--config at a time with a longer --budget_sec goes on, and the report takes the newest of each."
        )
    else:
        where = (
            f"No GPU was at hand. `{CAMPAIGN_COMMAND}` on one measures all of this; no suite starts anything after 8 "
            "minutes."
        )
    return ["## Targets", where, targets_table(gpu)]


def _prediction_sections(files: Sequence[Result], rows: Sequence[Row]) -> list[str]:
    commands = ", ".join(f"`{result.command}` (commit {result.commit})" for result in files)
    stand_ins = sorted({row["stand_ins"] for row in rows if row.get("stand_ins")})
    text = [
        "## Predictions, measured by nobody",
        f"Floors in s/kimg: counted FLOPs and bytes over the ceilings of datasheets, from {commands}. Real times are "
        "longer; the ratio of the parts is the better prediction. The score term is counted at the configuration's "
        f"frequency, with {'; '.join(stand_ins) if stand_ins else 'the real scorers'}.",
        f"One {PREDICTED_DEVICE}, phases at their intervals:",
        predictions_section(rows, PREDICTED_DEVICE, 1),
    ]
    text += _beyond_targets(rows)
    if any(row["gpus"] == 8 for row in rows):
        text += [f"Eight {PREDICTED_DEVICE} that share the batch:", predictions_section(rows, PREDICTED_DEVICE, 8)]
    return [*text, "The whole training, score term included:", devices_table(rows)]


def _beyond_targets(rows: Sequence[Row]) -> list[str]:
    """Where the predicted floors of the score term and of the rest are further apart than a target allows."""
    wholes = [row for row in rows if (row["device"], row["gpus"], row["phase"]) == (PREDICTED_DEVICE, 1, "all")]
    return [
        f"For {row['config']} the target is {percent(most)}, below the floors' {percent(row['score_overhead'])}: the "
        "scorer's network would have to come closer to its floor than the rest does to its own."
        for row in wholes
        if (most := MOST_OVERHEAD.get(row["config"])) and (row.get("score_overhead") or 0) > most
    ]


def page_text(measured: Sequence[Campaign], predicted: Sequence[Row]) -> str:
    """What stands between the markers of docs/speed.md."""
    text = []
    for campaign in measured:
        if table := _page_table(campaign):
            commands = ", ".join(f"`{result.command}`" for result in campaign.results if result.suite in _PAGE_SUITES)
            about = f"Measured on {campaign.device['name']}"
            threads = campaign.device.get("threads")
            text += [f"{about}{f', {threads} threads' if threads else ''}; from {commands}. {SPREAD}", table]
    if not any(campaign.is_gpu for campaign in measured) and predicted:
        text += [
            f"**Predictions, not measurements**: floors in s/kimg of one {PREDICTED_DEVICE}, counted work over the "
            f"datasheet's ceilings. `{CAMPAIGN_COMMAND}` on a GPU measures the real times.",
            predictions_section(predicted, PREDICTED_DEVICE, 1),
        ]
    text.append("More in [bench/RESULTS.md](../bench/RESULTS.md).")
    return "\n\n".join(text)


def _page_table(campaign: Campaign) -> str | None:
    """A line for each configuration; None where no training was measured."""
    cells = []
    for (config,), members in group(campaign.rows.get("train", []), "config").items():
        without = fastest(row for row in members if not row.get("score"))
        with_score = fastest(row for row in members if row.get("score"))
        reference = fastest(row for row in members if row["provider"] == REFERENCE and row.get("score"))
        waterfall = [
            row
            for row in campaign.rows.get("regularizer", [])
            if row.get("kind") == "waterfall" and row["config"] == config
        ]
        steps = sorted(waterfall, key=lambda row: row["order"])
        cells.append(
            [
                config,
                cost(without),
                cost(with_score),
                score_adds(without, with_score),
                speed_up(reference, with_score) if reference is not with_score else None,
                speed_up(steps[0], steps[-1]) if len(steps) > 1 else None,
            ]
        )
    header = ["config", "without score term, s/kimg", "with, s/kimg", "it adds", "against eager PyTorch"]
    return markdown_table([*header, "score term against the paper's recipe"], cells) if cells else None


def _refresh(page: Path, text: str) -> Path:
    content = page.read_text()
    if content.count(START) != 1 or content.count(END) != 1 or content.index(START) > content.index(END):
        raise UserError(f"{page}: expected the markers {START} and {END}, each once and in this order")
    before, rest = content.split(START)
    write_atomically(page, f"{before}{START}\n{text}\n{END}{rest.split(END)[1]}".encode())
    return page
