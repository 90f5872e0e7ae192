"""`smartfast study`: run, status, report and list."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smartfast.config.parse import parse_options
from smartfast.config.ranges import Count, FilePath, Threads
from smartfast.core.text import format_duration, format_table
from smartfast.errors import UserError
from smartfast.study.cell import progress, read_record, state_of
from smartfast.study.claims import BEAT_SEC, Claims
from smartfast.study.plan import STUDIES, Cell, Plan, check_trainings, find_study, folder_of, load_plan
from smartfast.study.registered import register
from smartfast.study.runner import Worker, status_line
from smartfast.study.trials import Searched, follow, run_stages, stage_lines

_USAGE = """usage: smartfast study ACTION [STUDY] [options]

  run       Train the cells of a study that are not complete; the same command goes on after Ctrl-C or a crash.
  status    Say how far each cell is.
  report    Write report.html and report.md from the run folders.
  list      Name the studies in configs/studies.

STUDY is a file or a name that list gives; smartfast study ACTION --help lists an action's options."""


@dataclass(frozen=True)
class StudyOptions:
    """A study: trainings of several arms with several seeds and one budget, each a run folder."""

    study: FilePath
    """YAML file of the study, or the name of one in configs/studies; may stand first without its name."""
    quick: bool = False
    """The short form, to try the study in minutes; its results are in a folder of their own. --quick alone is true."""
    out: FilePath | None = None
    """Folder of the study. Unset: runs/studies/NAME, or NAME-quick."""


@dataclass(frozen=True)
class RunOptions(StudyOptions):
    """Train the cells of a study that are not complete. Started several times, also elsewhere, it shares the cells."""

    storage: str | None = None
    """Database in which workers claim cells, such as postgresql://user@host/database, for several machines that see the
    same folder; cells of a worker that died go to another one after a minute. Unset: SQLite in the study's folder."""
    jobs: Count = 1
    """Trainings at a time; on GPUs each has one, in turn."""
    threads: Threads | None = None
    """CPU threads of each training. Unset: physical cores / jobs. Another number may round results otherwise."""


@dataclass(frozen=True)
class ReportOptions(StudyOptions):
    """Write report.html and report.md of a study, from its run folders, whatever is in them by now."""

    to: FilePath | None = None
    """Folder of the report. Unset: report in the study's folder."""


def study(arguments: Sequence[str]) -> bool:
    """Run `smartfast study` with these arguments.

    Returns:
        False where a signal ended it before the study was complete.

    Raises:
        UserError: The action, an option or the study is wrong, or a cell has failed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return True
    action, rest = arguments[0], list(arguments[1:])
    if action not in _ACTIONS:
        raise UserError(f"study {action}: there is no such action, expected one of {', '.join(_ACTIONS)}")
    try:
        return _ACTIONS[action](_with_name(rest))
    except BrokenPipeError:
        raise
    except OSError as error:  # what nothing below it has said better
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"study {action}: {where}{error.strerror or error}, expected files and folders that can be used; "
            "trainings have saved, and the same command goes on"
        ) from error


def _with_name(arguments: list[str]) -> list[str]:
    """With --study before a first argument that stands alone."""
    if arguments and not arguments[0].startswith("-"):
        return ["--study", *arguments]
    return arguments


def _run(arguments: list[str]) -> bool:
    options = parse_options(RunOptions, arguments, command="study run")
    plan, out = _opened(options)
    check_trainings(plan)
    claims = Claims(out, options.storage, plan.name, beat_sec=BEAT_SEC)
    stages = follow(plan, out).stages
    done = sum(_state(stage, cell, out) == "complete" for stage in stages for cell in stage.cells)
    register(plan, out, complete_cells=done)
    print(f"{plan.title}: {len(plan.arms)} arms, {len(plan.seeds)} seeds, {plan.budget} each, in {out}")
    say = functools.partial(print, flush=True)

    def run(stage: Plan) -> bool:
        return Worker(stage, out, claims, jobs=options.jobs, threads=options.threads, say=say).run()

    found = run_stages(plan, out, run, say)
    if found is None:
        return False
    check_outcome(found, out)
    return True


def check_outcome(found: Searched, out: Path) -> None:
    """Raise UserError where an arm or a cell has no result."""
    for arm in found.plan.arms:
        tried = [trial for trial in found.trials if trial.arm == arm.name]
        if tried and arm.name not in found.chosen:
            raise UserError(
                f"arm {arm.name}: every trial failed, first {tried[0].name}: {tried[0].error}; "
                "delete their folders in cells to have them tried again"
            )
    final = found.stages[-1]
    failed = [cell for cell in final.cells if _state(final, cell, out) == "failed"]
    if failed:
        record = read_record(folder_of(failed[0], out))
        raise UserError(f"{len(failed)} cells failed, first {failed[0].name}: {record.error if record else ''}")


def _opened(options: StudyOptions) -> tuple[Plan, Path]:
    plan = load_plan(find_study(options.study), quick=options.quick)
    return plan, Path(options.out or plan.default_out)


def _state(plan: Plan, cell: Cell, out: Path) -> str:
    return state_of(folder_of(cell, out), plan.options(cell, out), plan.budget.seconds)


def _status(arguments: list[str]) -> bool:
    plan, out = _opened(parse_options(StudyOptions, arguments, command="study status"))
    found, rows = follow(plan, out), []
    for stage in found.stages if found.is_final else (*found.stages, plan):
        for cell in stage.cells:
            folder = folder_of(cell, out)
            record, (kimg, _) = read_record(folder), progress(folder)
            wall = format_duration(record.wall_sec) if record else ""
            rows.append([cell.name, _state(stage, cell, out), f"{kimg:g}", wall, record.error if record else ""])
    print(format_table(["cell", "state", "kimg", "time", "error"], rows))
    print("\n".join([*stage_lines(found), status_line(found.stages[-1], out)]))
    return True


def _report(arguments: list[str]) -> bool:
    from smartfast.study.table import write_study_report  # it draws, which no other action does

    options = parse_options(ReportOptions, arguments, command="study report")
    plan, out = _opened(options)
    for path in write_study_report(plan, out, Path(options.to) if options.to else out / "report"):
        print(path)
    return True


def _list(arguments: list[str]) -> bool:
    if any(argument not in ("-h", "--help") for argument in arguments):
        raise UserError(f"study list takes no arguments, found {' '.join(arguments)}")
    plans = [load_plan(path) for path in sorted(STUDIES.glob("*.yaml"))]
    rows = [[plan.name, plan.title, f"{len(plan.arms)} x {len(plan.seeds)}", str(plan.budget)] for plan in plans]
    print(format_table(["study", "title", "arms x seeds", "budget of each"], rows))
    return True


_ACTIONS: dict[str, Callable[[list[str]], bool]] = {"run": _run, "status": _status, "report": _report, "list": _list}
