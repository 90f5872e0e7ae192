"""What a report says of where its runs come from: commits, machines and commands, without a machine's name or paths."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from smartfast.study.cell import Record
from smartfast.study.plan import STUDIES, Cell, Plan, folder_of
from smartfast.study.results import Result

_DIRTY = "-dirty"


def describe_runs(plan: Plan, results: Sequence[Result]) -> str:
    """One sentence: cells, base, budget, and the commits and machines that the run folders name."""
    records = [result.record for result in results if result.record is not None]
    complete = sum(result.state == "complete" for result in results)
    bases = ", ".join(sorted({shown_path(arm.base) for arm in plan.arms}))
    parts = [f"{complete} of {len(results)} cells complete", f"base {bases}", f"{plan.budget} each"]
    commits = Counter(record.commit or "unknown" for record in records)
    if len(commits) == 1:
        parts.append(f"commit {next(iter(commits))}")
    elif commits:
        parts.append("commits " + ", ".join(f"{commit} ({count} cells)" for commit, count in sorted(commits.items())))
    parts += sorted({record.hardware for record in records})
    dirty = any(commit.endswith(_DIRTY) for commit in commits)
    return "; ".join(parts) + "." + f" {_DIRTY}: with changes that are in no commit." * dirty


def commands_to_repeat(plan: Plan, results: Sequence[Result]) -> list[str]:
    """What one types to have the study's runs and this report again."""
    path = Path(plan.path)
    study = path.stem if path.resolve().parent == STUDIES.resolve() else shown_path(plan.path)
    arguments = [study, *["--quick"] * plan.is_quick]
    commits = {result.record.commit.removesuffix(_DIRTY) for result in results if result.record} - {""}
    lines = [f"git checkout {commits.pop()}"] if len(commits) == 1 else []
    return lines + [shlex.join(["smartfast", "study", action, *arguments]) for action in ("run", "report")]


def train_command(plan: Plan, cell: Cell, record: Record) -> str:
    """The command of a cell, in the folder that the study has where no other is asked for."""
    options = [option for option in record.options if not option.startswith("--run.dir=")]
    if options[:1] == ["--config"]:
        options[1] = shown_path(options[1])
    return shlex.join(["smartfast", "train", *options, f"--run.dir={folder_of(cell, Path(plan.default_out))}"])


def shown_path(path: str) -> str:
    """A path from here; of one that lies elsewhere its name alone."""
    relative = os.path.relpath(path)
    return Path(path).name if relative.startswith(os.pardir) else relative


def without_folder(text: str, plan: Plan, out: Path) -> str:
    """A message of a training, with the study's usual folder in place of where it is on this machine."""
    for folder in sorted({str(out), str(out.resolve())} - {"."}, key=len, reverse=True):
        text = text.replace(folder, plan.default_out)
    return text
