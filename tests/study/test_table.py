"""The report of a study from made run folders: every number, failures as rows, what was expected and when."""

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from smartfast.cli import main
from smartfast.study.cell import Record, write_record
from smartfast.study.hypothesis import Hypothesis
from smartfast.study.plan import STUDIES, Cell, Plan, folder_of, load_plan
from smartfast.study.plots import _mean, _points, draw_curves
from smartfast.study.registered import register, when_decided, withdrawn
from smartfast.study.results import Evaluation, Result, read_results, values_by_seed
from smartfast.study.statistics import Difference
from smartfast.study.table import arms, cells, differences, expectations, verdict, write_study_report

PUBLISHED = Path(__file__).parents[2] / "docs" / "studies"
SEEDS = range(6)
VALUES = {
    "plain": [5.0, 6.0, 5.5, 5.2, 5.8, 6.1],
    "score": [4.0, 4.5, 4.2, 4.1, 4.9, 4.4],
    "odd": [5.1, 5.9, 5.6, 5.1, 5.7, 6.2],
}


def settings_of(**changes: object) -> dict:
    return {
        "base": "digits",
        "settings": {"run.tracker": "none"},
        "arms": {"plain": {"smart.frequency": 0}, "score": {}, "odd": {"smart.weight": 0.5}},
        "seeds": list(SEEDS),
        "budget": {"kimg": 2},
        "metrics": ["fd_digits", "recall"],
        "hypotheses": [
            {"text": "The term helps.", "metric": "fd_digits", "test": "score < plain"},
            {"text": "It halves it.", "metric": "fd_digits", "test": "score < 0.5 * plain"},
        ],
        **changes,
    }


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(**changes: object) -> Plan:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings_of(**changes), sort_keys=False))
        return load_plan(tmp_path / "mine.yaml")

    return make


def write_cell(plan: Plan, cell: Cell, out: Path, value: float, **changes: object) -> Path:
    folder = folder_of(cell, out)
    folder.mkdir(parents=True)
    options = tuple(plan.options(cell, out))
    record = {"status": "complete", "arm": cell.arm, "seed": cell.seed, "options": options, "wall_sec": 75.0}
    record |= {"command": f"smartfast train {' '.join(options)}", "commit": "abc1234", "machine": "a machine"}
    write_record(folder, Record(**{**record, **changes}))
    found = {"kind": "metrics", "features": "digits", "metric/recall_digits": 0.25, "metric/seconds": 1.0}
    rows = [found | {"kimg": 0.0, "metric/fd_digits": 50.0}]
    for kimg in (1.0, 2.0):
        rows.append({"kind": "tick", "kimg": kimg, "sec_per_tick": 10.0 + cell.seed})
        rows.append(found | {"kimg": kimg, "metric/fd_digits": value * (3 - kimg)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.fromarray(np.full((8, 8), 10 * cell.seed, np.uint8)).save(folder / "fakes000002.png")
    return folder


@pytest.fixture
def made(make_plan: Callable[..., Plan], tmp_path: Path) -> Iterator[tuple[Plan, Path]]:
    """All cells but odd-5, which failed, and odd-4, which was never started."""
    plan = make_plan()
    for cell in plan.cells:
        if cell.name == "odd-5":
            write_cell(plan, cell, tmp_path, 1.0, status="failed", error="smartfast: error: 3 < 4 | worse")
        elif cell.name != "odd-4":
            write_cell(plan, cell, tmp_path, VALUES[cell.arm][cell.seed])
    yield plan, tmp_path


def test_values_are_the_last_ones_of_complete_cells(made: tuple[Plan, Path]) -> None:
    results = read_results(*made)
    assert values_by_seed(results, "score", "fd_digits") == dict(enumerate(VALUES["score"]))
    assert values_by_seed(results, "score", "recall") == dict.fromkeys(SEEDS, 0.25)
    assert values_by_seed(results, "odd", "fd_digits").keys() == {0, 1, 2, 3}
    first = results[0]
    assert [(e.kimg, e.sec) for e in first.evaluations] == [(0, 0), (1, 10), (2, 20)] and first.sec == 20


def test_a_row_of_an_arm_has_mean_spread_interval_and_failures(made: tuple[Plan, Path]) -> None:
    table, settings = arms(made[0], read_results(*made)).blocks
    rows = {row[0]: row for row in table.rows}
    mean, sd = np.mean(VALUES["plain"]), np.std(VALUES["plain"], ddof=1)
    assert rows["plain"][1] == "6 of 6" and rows["odd"][1] == "4 of 6, 1 failed"
    assert re.fullmatch(rf"{mean:.4g} ± {sd:.2g} \[5\.\d+, 5\.\d+\]", rows["plain"][2])
    assert rows["plain"][3] == "0.25 ± 0 [0.25, 0.25]"
    assert rows["plain"][4] == "25 ± 3.7"
    assert table.header[2] == "fd_digits (lower is better)"
    assert settings.rows == [
        ["all", "base digits, run.tracker none"],
        ["plain", "smart.frequency 0"],
        ["score", "none"],
        ["odd", "smart.weight 0.5"],
    ]


def test_arms_of_several_bases_say_theirs(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(arms={"plain": {}, "other": {"base": "cifar10"}}, hypotheses=[])
    rows = arms(plan, read_results(plan, tmp_path)).blocks[1].rows
    assert rows == [["all", "run.tracker none"], ["plain", "base digits"], ["other", "base cifar10"]]


def test_arms_are_compared_in_the_pairs_of_the_study(make_plan: Callable[..., Plan], made: tuple[Plan, Path]) -> None:
    plan = make_plan(compare={"odd": "score"})
    ((row,),) = [table.rows for table in differences(plan, read_results(plan, made[1])).blocks[:1]]
    mean = np.mean([VALUES["odd"][seed] - VALUES["score"][seed] for seed in range(4)])
    assert row[:2] == ["odd - score", "4"] and row[2].startswith(f"{mean:+.3g} [")


def test_differences_are_paired_with_the_first_arm_and_claimed_where_they_are_sure(made: tuple[Plan, Path]) -> None:
    rows = {row[0]: row for row in differences(made[0], read_results(*made)).blocks[0].rows}
    mean = np.mean(VALUES["score"]) - np.mean(VALUES["plain"])
    assert rows["score - plain"][1] == "6" and rows["score - plain"][2].startswith(f"{mean:+.3g} [")
    assert rows["score - plain"][3:5] == ["0.0312", "0.0625"]  # 2 / 2^6, and twice that: two rows
    assert rows["score - plain"][5] == "none, too few seeds for 2 rows"
    assert rows["odd - plain"][1] == "4" and rows["odd - plain"][5] == "none, too few seeds"


def test_a_single_difference_is_claimed(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(arms={"plain": {"smart.frequency": 0}, "score": {}})
    for cell in plan.cells:
        write_cell(plan, cell, tmp_path, VALUES[cell.arm][cell.seed])
    fd, recall = differences(plan, read_results(plan, tmp_path)).blocks
    assert fd.rows[0][5] == "lower" and recall.rows[0][5] == "none"


def test_reports_of_equal_arms_claim_a_difference_in_one_of_twenty_at_most(make_plan: Callable[..., Plan]) -> None:
    """40 studies of three arms of one distribution, eight seeds and two metrics whose tables are adjusted one by one.

    By chance at most 4 of the 80 tables claim something, on average; 11 or more would be two in a thousand such tests.
    """
    plan, rng, claims = make_plan(seeds=list(range(8)), hypotheses=[]), np.random.default_rng(2), 0
    for _ in range(40):
        values = rng.gamma(2, size=(len(plan.cells), 2))
        results = [
            Result(cell, "complete", None, 1.0, (Evaluation(2, 1, dict(zip(plan.metrics, row, strict=True))),), None)
            for cell, row in zip(plan.cells, values, strict=True)
        ]
        tables = differences(plan, results).blocks
        assert len(tables) == 2 and all(len(table.rows) == 2 for table in tables)
        claims += sum(any(row[-1] != "none" for row in table.rows) for table in tables)
    assert claims < 11


def test_the_curves_of_a_budget_of_seconds_end_at_the_mean_of_the_ends(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """Cells that end by the clock end at different images, which no mean over equal images has."""
    plan = make_plan(arms={"plain": {}}, seeds=[0, 1], budget={"seconds": 20}, hypotheses=[])
    for cell, kimg in zip(plan.cells, (2.5, 3.5), strict=True):
        folder = write_cell(plan, cell, tmp_path, 4.0, seconds=20.0)
        rows = [
            {"kind": "tick", "kimg": kimg, "sec_per_tick": 5.0},
            {"kind": "metrics", "features": "digits", "kimg": kimg, "metric/fd_digits": kimg},
        ]
        with (folder / "metrics.jsonl").open("a") as log:
            log.writelines(json.dumps(row) + "\n" for row in rows)
    ends = [_points(result, "fd_digits") for result in read_results(plan, tmp_path)]
    mean = _mean(ends, [points[-1] for points in ends])
    assert mean[:, 0].tolist() == [0, 1, 2, 3.0] and mean[-1].tolist() == [3.0, 26.0, 3.0]
    assert len(_mean(ends, [])) == 3 and draw_curves(plan, read_results(plan, tmp_path), "fd_digits")


def test_the_same_values_are_the_same_pictures(made: tuple[Plan, Path]) -> None:
    plan, out = made
    first, second = (draw_curves(plan, read_results(plan, out), "fd_digits") for _ in range(2))
    assert first == second


def test_arms_that_cannot_be_told_apart_have_no_curves_and_it_is_said(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(arms={f"weight_{i}": {"smart.weight": i + 1} for i in range(9)}, seeds=[0], hypotheses=[])
    for cell in plan.cells:
        write_cell(plan, cell, tmp_path, 4.0)
    _, text = (path.read_text() for path in write_study_report(plan, tmp_path, tmp_path / "report"))
    assert "No curves: 9 arms, of which 8 can be told apart." in text


@pytest.mark.parametrize("name", ["fakes000000.064.png", "fakes000003.png"])
def test_the_newest_sheet_is_shown_however_near_the_snapshots_are(
    name: str, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(arms={"plain": {}}, seeds=[0], hypotheses=[])
    folder = write_cell(plan, plan.cells[0], tmp_path, 4.0)
    (folder / "fakes000002.png").rename(folder / name)
    (folder / "fakes_init.png").write_bytes(b"")
    (result,) = read_results(plan, tmp_path)
    assert result.sheet is not None and result.sheet[1].name == name
    _, text = (path.read_text() for path in write_study_report(plan, tmp_path, tmp_path / "report"))
    assert f"plain, seed 0, at {'0.064' if '64' in name else '3'} kimg" in text


@pytest.mark.parametrize("report", sorted(PUBLISHED.glob("*/report.md")), ids=lambda path: path.parent.name)
def test_a_published_report_ends_with_the_conclusion_of_its_study(report: Path) -> None:
    paragraphs = [line for line in load_plan(STUDIES / f"{report.parent.name}.yaml").conclusion.splitlines() if line]
    written = html.unescape(report.read_text().split("\n## Conclusion\n")[1]).replace("\\", "")
    assert paragraphs and written.strip().split("\n\n") == paragraphs


def test_expectations_hold_or_not_and_say_when_they_were_written_down(made: tuple[Plan, Path]) -> None:
    plan, out = made
    register(plan, out, complete_cells=0)
    table = expectations(plan, read_results(plan, out), out).blocks[0]
    assert [row[2] for row in table.rows] == ["holds", "does not hold: the other way round"]
    assert table.rows[0][1] == "fd_digits: score < plain" and table.rows[0][4:6] == ["0.0156", "6"]
    assert all(row[6].startswith("before any result (20") for row in table.rows)


def test_expectations_that_come_or_go_after_results_are_told(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    before = make_plan()
    register(before, tmp_path, complete_cells=0)
    late = {"text": "Late.", "metric": "recall", "test": "odd > plain"}
    after = make_plan(hypotheses=[settings_of()["hypotheses"][0], late])
    assert when_decided(after.hypotheses[1], tmp_path) == "after the last run"
    register(after, tmp_path, complete_cells=7)
    assert when_decided(after.hypotheses[0], tmp_path).startswith("before any result")
    assert when_decided(after.hypotheses[1], tmp_path).startswith("when 7 cells were complete")
    assert withdrawn(after, tmp_path) == ["It halves it. | fd_digits | score < 0.5 * plain"]
    assert isinstance(after.hypotheses[0], Hypothesis)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "undecided, too few seeds"),
        (Difference(4, -1.0, None, 1 / 16), "undecided, too few seeds"),
        (Difference(5, -1.0, None, 1 / 32), "holds"),
        (Difference(5, -1.0, None, 0.2), "not shown"),
        (Difference(5, 1.0, None, 0.9), "not shown"),
        (Difference(5, 1.0, None, 1.0), "does not hold: the other way round"),
    ],
)
def test_verdicts(found: Difference | None, words: str) -> None:
    """The reverse of a test of five pairs has what is missing to 1, and the one case that both of them count."""
    reverse = found and found._replace(p_value=1 - found.p_value + 1 / 32)
    assert verdict(found, reverse) == words


def test_every_cell_is_a_row_with_its_command(made: tuple[Plan, Path]) -> None:
    table, commands, _ = cells(made[0], read_results(*made), made[1]).blocks
    rows = {row[0]: row for row in table.rows}
    assert len(rows) == 18
    assert rows["plain-1"] == ["plain-1", "complete", "6", "0.25", "22.0", "1m 15s", ""]
    assert rows["odd-5"][1:4] == ["failed", "", ""] and rows["odd-5"][6] == "smartfast: error: 3 < 4 | worse"
    assert rows["odd-4"] == ["odd-4", "waiting", "", "", "0.0", "", ""]
    assert len(commands.lines) == 17 and commands.lines[0].startswith(
        "smartfast train --config digits --run.tracker=none --smart.freq"
    )


def test_the_report_stands_alone_and_its_markdown_has_its_pictures(made: tuple[Plan, Path]) -> None:
    plan, out = made
    page, text = (path.read_text() for path in write_study_report(plan, out, out / "report"))
    assert "src=" in page and not re.findall(r'src="(?!data:)', page)
    assert page.count("<svg") == 0 and page.count("data:image/svg+xml") == 2 and page.count("data:image/png") == 3
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures == ["curves_fd_digits.svg", "curves_recall.svg", "samples_0.png", "samples_1.png", "samples_2.png"]
    assert all((out / "report" / name).is_file() for name in pictures)
    ElementTree.parse(out / "report" / "curves_fd_digits.svg")
    assert "3 &lt; 4 \\| worse" in text and "16 of 18 cells complete; base digits; 2 kimg each; commit abc1234" in text
    for line in [line for line in text.splitlines() if line.startswith("|")]:
        assert line.endswith("|")


def test_the_conclusion_is_the_end_and_not_of_the_quick_form(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    quick = {"budget": {"kimg": 1}}
    make_plan(conclusion="It *helps*.\nBut see the third arm.\n", quick=quick)
    for form in (True, False):
        plan = load_plan(tmp_path / "mine.yaml", quick=form)
        page, text = (path.read_text() for path in write_study_report(plan, tmp_path, tmp_path / "report"))
        end = "\n## Conclusion\n\nIt \\*helps\\*.\n\nBut see the third arm.\n"
        assert text.endswith(end) != form and ("But see the third" in page) != form


def test_a_report_names_commits_and_how_to_repeat_it_but_neither_hosts_nor_their_paths(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.yaml").write_text("data: {dataset: digits}\n")
    plan, out = make_plan(base="base.yaml"), tmp_path / "elsewhere"
    host = {"machine": "node17, aarch64, 2 threads"}
    for cell in plan.cells[:3]:
        write_cell(plan, cell, out, 5.0, **host)
    failed = {"status": "failed", "error": f"run.dir {out}/cells/plain-1: disk full"}
    write_cell(plan, plan.cells[3], out, 5.0, **host, **failed)
    monkeypatch.chdir(tmp_path)
    page, text = (path.read_text() for path in write_study_report(plan, out, out / "report"))
    for written in (page, text):
        assert "/pytest-of-" not in written and "node17" not in written and "aarch64, 2 threads" in written
    assert "base base.yaml; 2 kimg each; commit abc1234; aarch64" in text
    assert "run.dir runs/studies/mine/cells/plain-1: disk full" in text
    assert "git checkout abc1234\nsmartfast study run mine.yaml\nsmartfast study report mine.yaml\n" in text
    command = next(line for line in text.splitlines() if line.startswith("smartfast train"))
    assert command.startswith("smartfast train --config base.yaml --run.tracker=none --smart.frequency=0 --run.kimg=2")
    assert command.endswith("--run.dir=runs/studies/mine/cells/plain-0")

    write_cell(plan, plan.cells[4], out, 5.0, commit="def5678-dirty")
    text = write_study_report(plan, out, out / "report")[1].read_text()
    assert "commits abc1234 (4 cells), def5678-dirty (1 cells)" in text and "-dirty: with changes" in text
    assert "git checkout" not in text


def test_a_sweep_gets_a_map_of_its_means(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    sweep = {"smart.weight": [5, 20], "smart.frequency": [1, 2, 4]}
    plan = make_plan(arms={}, sweep=sweep, seeds=[0, 1], hypotheses=[])
    for number, cell in enumerate(plan.cells[:-1]):  # the last pair has one seed
        write_cell(plan, cell, tmp_path, float(number))
    _, text = write_study_report(plan, tmp_path, tmp_path / "report")
    assert "(map_fd_digits.svg)" in text.read_text()
    labels = set(re.findall(r"<!-- (.*?) -->", (tmp_path / "report/map_fd_digits.svg").read_text()))
    assert {"3", "4", "7", "smart.weight", "smart.frequency", "20", "5"} <= labels  # (0 + 6) / 2, (1 + 7) / 2, ..., 5


def test_a_study_without_any_result_still_has_a_report(
    make_plan: Callable[..., Plan], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_plan()
    assert main(["study", "report", str(tmp_path / "mine.yaml"), "--out", str(tmp_path), "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html"), str(tmp_path / "report.md")]
    text = (tmp_path / "report.md").read_text()
    assert "0 of 18 cells complete" in text and "undecided, too few seeds" in text and "Samples" not in text
