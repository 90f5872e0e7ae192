"""The report of a study, from its run folders: what was expected, arms, differences, curves, samples and every cell."""

from collections.abc import Sequence
from pathlib import Path

from smartfast.core.text import format_duration
from smartfast.metrics.names import metric_of
from smartfast.report.quality import meaning
from smartfast.study.cell import read_record
from smartfast.study.document import Block, Lines, Plot, Section, Sheets, Table, Text, write_document
from smartfast.study.hypothesis import Hypothesis
from smartfast.study.plan import Plan, folder_of, option_text
from smartfast.study.plots import MOST_ARMS, draw_curves, draw_map
from smartfast.study.provenance import (
    commands_to_repeat,
    describe_runs,
    shown_path,
    train_command,
    without_folder,
)
from smartfast.study.registered import when_decided, withdrawn
from smartfast.study.results import Result, read_results, values_by_seed
from smartfast.study.statistics import LEVEL, Difference, Interval, holm, paired_difference, smallest_p, summarise
from smartfast.study.trials import Searched, follow

_HOW_TO_READ = (
    "Values are those of the last evaluation of each cell that is complete, never the best one. Arms: mean over the "
    "seeds ± standard deviation, and in brackets a 95 % bootstrap interval of the mean (BCa, 9999 resamples), from "
    "three seeds on; of five values such an interval holds the true mean about 85 times in 100, of ten about 90 times. "
    "Differences are paired by seed; p is that of all sign flips of the pairs (of 9999 if they are more), two-sided, "
    "and p (Holm) is adjusted for all rows of its table. Hypotheses state a direction, so their p is one-sided and "
    "not adjusted. Seconds are of training, without evaluations, snapshots and compiling."
)


def write_study_report(plan: Plan, out: Path, folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md of the study whose cells are in `out` into a folder; returns their paths."""
    found = follow(plan, out)
    plan = found.plan
    results = read_results(plan, out)
    sections = [
        Section("Question", [*[Text(plan.question)] * bool(plan.question), Text(describe_runs(plan, results))]),
        expectations(plan, results, out),
        trials(found, out),
        arms(plan, results),
        differences(plan, results),
        _curves(plan, results),
        _samples(plan, results),
        cells(plan, results, out),
        Section("How to read this", [Text(_HOW_TO_READ)]),
        Section("Conclusion", [Text(line) for line in plan.conclusion.splitlines() if line.strip()]),
    ]
    return write_document(folder, plan.title, f"Study {plan.name}", [section for section in sections if section.blocks])


def expectations(plan: Plan, results: list[Result], out: Path) -> Section:
    """What was expected before the runs, and whether it held."""
    rows = []
    for hypothesis in plan.hypotheses:
        found = _tested(hypothesis, results)
        test = f"{hypothesis.metric}: {hypothesis.test}"
        numbers = ["", "", ""] if found is None else [_mean_interval(found), f"{found.p_value:.3g}", str(found.size)]
        outcome = verdict(found, _tested(hypothesis, results, is_reversed=True))
        rows.append([hypothesis.text, test, outcome, *numbers, when_decided(hypothesis, out)])
    blocks: list[Block] = []
    if rows:
        blocks.append(
            Table(["expected", "test", "outcome", "difference", "p, one-sided", "pairs", "written down"], rows)
        )
    gone = withdrawn(plan, out)
    if gone:
        blocks.append(Text("Expected at first, and no longer in the study: " + "; ".join(gone) + "."))
    return Section("What was expected", blocks)


def trials(found: Searched, out: Path) -> Section:
    """A row for each trial of a search, the chosen ones marked."""
    plan, search = found.plan, found.plan.search
    if search is None:
        return Section("Search", [])
    seeds, fresh = (", ".join(map(str, seeds)) for seeds in (search.seeds, plan.seeds))
    how = (
        f"{search}. Each has the seeds {seeds} and {search.budget}; the best mean of {search.metric} "
        f"({meaning(metric_of(search.metric).measure)}) is the arm's. The arms then have the seeds {fresh}, "
        "which are fresh: no trial had one of them, and no value of a trial is in the other tables."
    )
    rows = []
    for trial in found.trials:
        is_chosen = trial is found.chosen.get(trial.arm)
        point = [option_text(trial.point[name]) for name in search.space]
        error = without_folder(trial.error, plan, out)
        rows.append([trial.arm, f"{trial.number}", *point, trial.state, _number(trial.value), "yes" * is_chosen, error])
    header = ["arm", "trial", *search.space, "state", search.metric, "chosen", "error"]
    stages = found.stages[:-1] if found.is_final else found.stages
    trained = {cell: read_record(folder_of(cell, out)) for stage in stages for cell in stage.cells}
    commands = [train_command(plan, cell, record) for cell, record in trained.items() if record is not None]
    return Section("Search", [Text(how), Table(header, rows), Lines("The command of each training", commands)])


def verdict(found: Difference | None, reverse: Difference | None) -> str:
    """What the test of a hypothesis and that of its reverse say, in words."""
    if found is None or reverse is None or smallest_p(found.size, "less") > LEVEL:
        return "undecided, too few seeds"
    if found.p_value <= LEVEL:
        return "holds"
    return "does not hold: the other way round" if reverse.p_value <= LEVEL else "not shown"


def arms(plan: Plan, results: list[Result]) -> Section:
    """A row for each arm."""
    rows = []
    for arm in plan.arms:
        own = [result for result in results if result.cell.arm == arm.name]
        complete = [result for result in own if result.state == "complete"]
        failed = sum(result.state == "failed" for result in own)
        count = f"{len(complete)} of {len(own)}" + (f", {failed} failed" if failed else "")
        values = [_summary(list(values_by_seed(results, arm.name, metric).values())) for metric in plan.metrics]
        sec = _summary([result.sec for result in complete], short=True)
        rows.append([arm.name, count, *values, sec])
    named = {
        arm.name: [
            ("base", shown_path(arm.base)),
            *((name, option_text(value)) for name, value in arm.settings.items()),
        ]
        for arm in plan.arms
    }
    common = set.intersection(*map(set, named.values()))
    settings = [["all", _listed(sorted(common))]] if common else []
    for name, of_arm in named.items():
        settings.append([name, _listed([setting for setting in of_arm if setting not in common])])
    header = [
        "arm",
        "seeds",
        *(f"{metric} ({meaning(metric_of(metric).measure)})" for metric in plan.metrics),
        "seconds",
    ]
    return Section("Arms", [Table(header, rows), Table(["arm", "settings"], settings)])


def _listed(settings: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings) or "none"


def differences(plan: Plan, results: list[Result]) -> Section:
    """A table for each metric: every arm against the one that it is compared with, paired by seed."""
    blocks: list[Block] = []
    for metric in plan.metrics:
        found = {
            f"{arm} - {other}": paired_difference(
                values_by_seed(results, arm, metric), values_by_seed(results, other, metric)
            )
            for arm, other in plan.compared
        }
        known = {pair: difference for pair, difference in found.items() if difference is not None}
        adjusted = dict(zip(known, holm([difference.p_value for difference in known.values()]), strict=True))
        rows = [
            [
                pair,
                str(d.size),
                _mean_interval(d),
                f"{d.p_value:.3g}",
                f"{adjusted[pair]:.3g}",
                _claim(d, adjusted[pair], len(known)),
            ]
            for pair, d in known.items()
        ]
        if rows:
            blocks.append(Table([metric, "pairs", "difference", "p", "p (Holm)", "claim"], rows))
    return Section("Differences", blocks)


def _claim(difference: Difference, adjusted: float, rows: int) -> str:
    if adjusted <= LEVEL:
        return "lower" if difference.mean < 0 else "higher"
    if smallest_p(difference.size) > LEVEL:
        return "none, too few seeds"
    return f"none, too few seeds for {rows} rows" if smallest_p(difference.size) * rows > LEVEL else "none"


def _curves(plan: Plan, results: list[Result]) -> Section:
    blocks: list[Block] = []
    if len(plan.arms) > MOST_ARMS:
        blocks.append(Text(f"No curves: {len(plan.arms)} arms, of which {MOST_ARMS} can be told apart."))
    for metric in plan.metrics:
        drawing = draw_curves(plan, results, metric)
        if drawing is not None:
            blocks.append(Plot(f"curves_{metric}.svg", drawing, f"{metric}: mean of the seeds, and each seed faint"))
        if plan.sweep and any(metric in result.values for result in results):
            caption = f"{metric} at the end of the budget, mean of the seeds"
            blocks.append(Plot(f"map_{metric}.svg", draw_map(plan, results, metric), caption))
    return Section("Curves", blocks)


def _samples(plan: Plan, results: list[Result]) -> Section:
    pictures = []
    for arm in plan.arms:
        own = [r for r in results if r.cell.arm == arm.name and r.sheet is not None]
        shown = next((r for r in own if r.state == "complete"), next(iter(own), None))
        if shown is not None and shown.sheet is not None:
            kimg, path = shown.sheet
            pictures.append((path, f"{arm.name}, seed {shown.cell.seed}, at {kimg:g} kimg"))
    return Section("Samples", [Sheets(pictures)] if pictures else [])


def cells(plan: Plan, results: list[Result], out: Path) -> Section:
    """A row for each cell, failures and what was not started too, the command of each, and those of the study."""
    rows, commands = [], []
    for result in results:
        record = result.record
        values = [_number(result.values.get(metric)) for metric in plan.metrics]
        wall = format_duration(record.wall_sec) if record else ""
        error = without_folder(record.error, plan, out) if record else ""
        rows.append([result.cell.name, result.state, *values, f"{result.sec:.1f}", wall, error])
        if record is not None:
            commands.append(train_command(plan, result.cell, record))
    header = ["cell", "state", *plan.metrics, "seconds", "with all else", "error"]
    repeat = Lines("To run all of it again", commands_to_repeat(plan, results))
    return Section("Cells", [Table(header, rows), Lines("The command of each cell", commands), repeat])


def _tested(hypothesis: Hypothesis, results: list[Result], *, is_reversed: bool = False) -> Difference | None:
    return paired_difference(
        values_by_seed(results, hypothesis.left, hypothesis.metric),
        values_by_seed(results, hypothesis.right, hypothesis.metric),
        factor=hypothesis.factor,
        alternative="less" if (hypothesis.sign < 0) != is_reversed else "greater",
    )


def _summary(values: Sequence[float], *, short: bool = False) -> str:
    if not values:
        return ""
    summary = summarise(values)
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.2g}"
    return f"{summary.mean:.4g}{deviation}" + ("" if short else _brackets(summary.interval))


def _mean_interval(difference: Difference) -> str:
    return f"{difference.mean:+.3g}{_brackets(difference.interval)}"


def _brackets(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.3g}, {interval.high:.3g}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
