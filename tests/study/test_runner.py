"""A study runs every cell once, whoever dies when; what fails is noted; the same command goes on."""

import json
import math
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy
import yaml
from optuna.trial import TrialState, create_trial

from smartfast.cli import main
from smartfast.errors import UserError
from smartfast.scorers.loading import BUNDLED
from smartfast.study import runner
from smartfast.study.cell import progress, read_record, state_of
from smartfast.study.claims import BEATS_UNTIL_DEAD, Claims
from smartfast.study.plan import STUDIES, Plan, folder_of, load_plan
from smartfast.study.results import read_results
from smartfast.study.runner import Worker, status_line
from smartfast.study.trials import follow

STAND_IN = (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py")))
ARMS = {"light": {"smart.weight": 1}, "heavy": {"smart.weight": 20}}
TINY = {
    "data.resolution": 8,
    "data.labels": False,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.mbstd_group": 4,
    "gan.mbstd_by_class": False,
    "optim.batch": 8,
    "smart.frequency": 0,
    "metrics.names": ["diversity", "fid"],
    "metrics.samples": 64,
    "metrics.every_ticks": 1,
    "run.tick_kimg": 0.016,
    "run.snapshot_ticks": 1,
    "run.tracker": "none",
}


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(**changes: object) -> Plan:
        settings = {
            "base": "digits",
            "arms": ARMS,
            "seeds": [0, 1],
            "budget": {"kimg": 0.003},
            "metrics": ["fd_digits"],
        }
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings | changes, sort_keys=False))
        return load_plan(tmp_path / "mine.yaml")

    return make


def work(plan: Plan, out: Path, url: str | None = None, say: Callable[[str], None] = print, **options: int) -> bool:
    beat_sec = options.pop("beat_sec", 2)
    return Worker(plan, out, Claims(out, url, plan.name, beat_sec=beat_sec), say=say, train=STAND_IN, **options).run()


def results(plan: Plan, out: Path) -> dict[str, str]:
    return {cell.name: (folder_of(cell, out) / "state.txt").read_text() for cell in plan.cells}


def completed(out: Path) -> list[str]:
    return sorted((out / "cells" / "completed.txt").read_text().split())


def test_complete_cells_are_not_run_again_and_new_ones_are_added(make_plan: Callable, tmp_path: Path) -> None:
    plan, said = make_plan(seeds=[1]), []
    assert work(plan, tmp_path, say=said.append, jobs=2, threads=3)
    assert completed(tmp_path) == sorted(cell.name for cell in plan.cells)
    assert said[-1] == "2 of 2 cells complete"
    record = read_record(tmp_path / "cells" / "heavy-1")
    assert (record.status, record.arm, record.seed, record.error) == ("complete", "heavy", 1, "")
    assert record.command.startswith("smartfast train --config digits --smart.weight=20 ") and record.wall_sec > 0
    assert record.machine.endswith("3 threads")

    more = make_plan(seeds=[1, 2])
    assert work(more, tmp_path)
    assert completed(tmp_path) == sorted(cell.name for cell in more.cells)
    (tmp_path / "study.db").unlink()  # what counts lies in the folders
    assert work(more, tmp_path)
    assert completed(tmp_path) == sorted(cell.name for cell in more.cells)


def test_a_cell_whose_settings_or_length_are_others_now_is_not_complete(make_plan: Callable, tmp_path: Path) -> None:
    work(make_plan(seeds=[0]), tmp_path)
    longer = make_plan(budget={"kimg": 0.004}, seeds=[0])
    assert {state_of(folder_of(cell, tmp_path), longer.options(cell, tmp_path), None) for cell in longer.cells} == {
        "interrupted"
    }
    assert work(longer, tmp_path)
    assert all(len(result.split()) == 4 for result in results(longer, tmp_path).values())


def test_a_failure_is_noted_and_tried_again_by_the_same_command(make_plan: Callable, tmp_path: Path) -> None:
    plan, said = make_plan(seeds=[13, 0], arms={"light": ARMS["light"]}), []
    for _ in range(2):
        assert work(plan, tmp_path, say=said.append)
    record = read_record(tmp_path / "cells" / "light-13")
    assert (record.status, record.error) == ("failed", "smartfast: error: 13 brings bad luck")
    assert said[-1] == "1 of 2 cells complete, 1 failed"
    assert said.count("light-13: failed: smartfast: error: 13 brings bad luck") == 2
    assert completed(tmp_path) == ["light-0"]


def test_seconds_end_a_training_which_is_then_evaluated_where_it_stands(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step counts as a second here; without the end of the budget the training would not end."""
    monkeypatch.setenv("STAND_IN_SEC", "0.05")
    plan = make_plan(budget={"seconds": 4}, seeds=[0], arms={"light": ARMS["light"]})
    assert work(plan, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "cells/light-0/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "metrics" and rows[-1]["kimg"] == rows[-2]["kimg"] and len(rows) > 4
    assert read_record(tmp_path / "cells/light-0").status == "complete"


def test_seconds_that_were_raised_are_trained_to_their_end(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SEC", "0.05")
    steps = []
    for seconds in (4, 40):
        plan = make_plan(budget={"seconds": seconds}, seeds=[0], arms={"light": ARMS["light"]})
        assert work(plan, tmp_path)
        steps.append(len(results(plan, tmp_path)["light-0"].split()))
        (found,) = read_results(plan, tmp_path)
        assert found.state == "complete" and found.evaluations[-1].sec >= seconds
    assert steps[1] >= 40 > steps[0]


def test_images_beyond_the_budget_are_no_result_of_it(make_plan: Callable, tmp_path: Path) -> None:
    light = {"light": ARMS["light"]}
    work(make_plan(budget={"kimg": 0.004}, seeds=[0], arms=light), tmp_path)
    less = make_plan(budget={"kimg": 0.002}, seeds=[0], arms=light)
    assert work(less, tmp_path)
    (found,) = read_results(less, tmp_path)
    assert (found.state, found.values) == ("failed", {}) and found.record is not None
    assert found.record.error.startswith("trained for 0.004 kimg, expected the budget's 0.002: delete the folder")


def test_a_training_without_an_evaluation_at_its_end_has_failed(make_plan: Callable, tmp_path: Path) -> None:
    plan, said = make_plan(seeds=[14], arms={"light": ARMS["light"]}), []
    assert work(plan, tmp_path, say=said.append)
    assert said[-1] == "0 of 1 cells complete, 1 failed"
    assert read_record(tmp_path / "cells/light-14").error == "no evaluation at its end, 0.003 kimg, only at []"


def test_ticks_that_a_stop_cut_off_count_as_trained(tmp_path: Path) -> None:
    rows = [
        {"kind": "tick", "kimg": 1.0, "sec_per_tick": 3.0},
        {"kind": "metrics", "kimg": 1.0, "metric/seconds": 5.0},
        {"kind": "stopped", "kimg": 1.5, "since_tick_sec": 1.25},
        {"kind": "tick", "kimg": 2.0, "sec_per_tick": 1.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert progress(tmp_path) == (2.0, 5.75)


def test_seconds_after_the_checkpoint_that_is_left_are_trained_again(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is killed between its last tick and its last checkpoint has spent its seconds for nothing."""
    monkeypatch.setenv("STAND_IN_SEC", "0.02")
    plan = make_plan(budget={"seconds": 6}, seeds=[0], arms={"light": ARMS["light"]})
    folder = tmp_path / "cells/light-0"
    (folder / "checkpoints/000002").mkdir(parents=True)
    (folder / "checkpoints/000002/checkpoint.json").write_text('{"images": 2}')
    (folder / "state.txt").write_text("a b")
    rows = [{"kind": "tick", "kimg": step / 1000, "sec_per_tick": 1.0} for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert work(plan, tmp_path)
    assert len(results(plan, tmp_path)["light-0"].split()) >= 6


def test_time_left_is_that_of_the_cells_so_far(make_plan: Callable, tmp_path: Path) -> None:
    plan = make_plan()
    assert status_line(plan, tmp_path) == "0 of 4 cells complete"
    work(plan, tmp_path)
    for name in ("light-1", "heavy-1"):
        record = json.loads((tmp_path / "cells" / name / "cell.json").read_text())
        (tmp_path / "cells" / name / "cell.json").write_text(json.dumps(record | {"status": "interrupted"}))
    (tmp_path / "cells/light-1/metrics.jsonl").write_text('{"kind": "tick", "kimg": 0.0015, "sec_per_tick": 1}\n')
    (tmp_path / "cells/heavy-1/metrics.jsonl").unlink()
    for name in ("light-0", "heavy-0"):
        record = json.loads((tmp_path / "cells" / name / "cell.json").read_text())
        (tmp_path / "cells" / name / "cell.json").write_text(json.dumps(record | {"wall_sec": 100.0}))
    assert status_line(plan, tmp_path) == "2 of 4 cells complete, 2m 30s left"
    assert status_line(plan, tmp_path, jobs=2) == "2 of 4 cells complete, 1m 15s left"


def test_time_left_is_said_once_the_next_cell_runs(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two cells fewer run than will, and what is left would seem to take longer."""
    monkeypatch.setattr(runner, "_START_SEC", 1.0)
    monkeypatch.setenv("STAND_IN_SEC", "1.0")
    said: list[str] = []
    assert work(make_plan(), tmp_path, say=said.append, jobs=2)
    with_time = [place for place, line in enumerate(said) if line.endswith("left")]
    assert with_time
    for place in with_time:
        before = " ".join(said[:place])
        complete = before.count(": complete")
        assert before.count(": started") - complete == min(2, 4 - complete)


def in_background(*arguments: object, **options: object) -> multiprocessing.Process:
    """`work` in a process of its own, forked because it would need seconds to import everything again."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments, kwargs=options)
    process.start()
    return process


def wait_for(is_true: Callable[[], bool], sec: float = 60) -> None:
    deadline = time.monotonic() + sec
    while not is_true():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def begun_by(pid: int, out: Path) -> str:
    """The cell that a worker's training is in the midst of, empty where it has none."""
    for training in psutil.Process(pid).children():
        words = training.cmdline()  # empty for one that has ended
        cell = next((word.rpartition("/")[2] for word in words if word.startswith("--run.dir=")), "")
        if (out / "cells" / cell / "state.txt").exists():
            return cell
    return ""


def check_four_workers_one_killed(plan: Plan, folder: Path, url: str | None) -> None:
    work(plan, folder / "serial")
    out = folder / "shared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_SEC", "0.3")
        workers = [in_background(plan, out, url, beat_sec=2) for _ in range(4)]
        wait_for(lambda: bool(begun_by(workers[0].pid, out)))
        killed = begun_by(workers[0].pid, out)
        os.kill(workers[0].pid, signal.SIGKILL)
        for process in workers:
            process.join(120)
    assert [process.exitcode for process in workers] == [-signal.SIGKILL, 0, 0, 0]
    assert completed(out) == sorted(cell.name for cell in plan.cells)
    assert results(plan, out) == results(plan, folder / "serial")
    states: dict[str, list[TrialState]] = {}
    for trial in Claims(out, url, plan.name)._study.trials:
        if "surplus" not in trial.user_attrs:  # two workers added the cell at once, and the other trial counts
            states.setdefault(trial.user_attrs["cell"], []).append(trial.state)
    assert states.pop(killed) == [TrialState.FAIL, TrialState.COMPLETE]  # its heartbeats stopped, and it waited again
    assert set(map(tuple, states.values())) == {(TrialState.COMPLETE,)}


def test_four_workers_of_whom_one_is_killed_complete_every_cell_once(make_plan: Callable, tmp_path: Path) -> None:
    check_four_workers_one_killed(make_plan(seeds="0-2", budget={"kimg": 0.008}), tmp_path, None)


def test_four_workers_on_postgresql_do_too(make_plan: Callable, tmp_path: Path, postgresql: str) -> None:
    check_four_workers_one_killed(make_plan(seeds="0-2", budget={"kimg": 0.008}), tmp_path, postgresql)


def test_ctrl_c_leaves_what_the_same_command_goes_on_with(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(budget={"kimg": 0.1})
    monkeypatch.setenv("STAND_IN_SEC", "0.1")
    worker = in_background(plan, tmp_path, jobs=2)
    wait_for(lambda: len(list((tmp_path / "cells").glob("*/state.txt"))) == 2)
    os.kill(worker.pid, signal.SIGINT)
    worker.join(30)
    assert worker.exitcode == 0 and not (tmp_path / "cells/completed.txt").exists()
    found = [state_of(folder_of(cell, tmp_path), plan.options(cell, tmp_path), None) for cell in plan.cells]
    assert found == ["interrupted", "interrupted", "waiting", "waiting"]
    begun = (tmp_path / "cells/light-0/state.txt").read_text()
    monkeypatch.setenv("STAND_IN_SEC", "0")
    assert work(plan, tmp_path)
    assert completed(tmp_path) == sorted(cell.name for cell in plan.cells)
    assert results(plan, tmp_path)["light-0"].startswith(begun)


def test_a_storage_that_is_lost_ends_the_worker_with_one_line_and_its_trainings_are_saved(
    make_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SEC", "0.1")
    plan = make_plan(budget={"kimg": 0.1}, seeds=[0])

    def damage(line: str) -> None:
        if line == "heavy-0: started":
            wait_for(lambda: len(list((tmp_path / "cells").glob("*/state.txt"))) == 2)
            (tmp_path / "study.db").write_bytes(b"no database" * 1000)

    with pytest.raises(UserError, match="storage: (file is not a database|database disk image is malf).*, expected"):
        work(plan, tmp_path, say=damage, jobs=2, beat_sec=1)
    found = [read_record(folder_of(cell, tmp_path)) for cell in plan.cells]
    assert [record.status for record in found] == ["interrupted"] * 2 and all(record.wall_sec > 0 for record in found)


@pytest.mark.parametrize("arguments", [("run", "--out"), ("report", "--to")])
def test_folders_that_cannot_be_made_are_one_line(
    make_plan: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, str]
) -> None:
    make_plan(settings={"run.tracker": "none"})
    action, option = arguments
    assert main(["study", action, str(tmp_path / "mine.yaml"), option, "/dev/null/x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"smartfast: error: study {action}: /dev/null/x: Not a directory, expected")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_one_command_runs_a_study_of_real_trainings(
    make_plan: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_plan(settings=TINY, arms={"flips": {"data.mirror": True}}, seeds=[0], budget={"kimg": 0.016})
    where = [str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]
    assert main(["study", "run", *where, "--threads", "1"]) == 0, (tmp_path / "out/cells/flips-0/train.log").read_text()
    assert "1 of 1 cells complete" in capsys.readouterr().out
    assert main(["study", "status", *where]) == 0
    assert "flips-0 complete 0.016" in " ".join(capsys.readouterr().out.split())


def stand_in_scorers(plan: Plan, folder: Path) -> bool:
    """Put the bundled scorer in place of each that a study has made before it, and of one for reduced images one that
    has learnt a little; whether there are such."""
    made = [arm.settings for arm in plan.arms if str(arm.settings.get("smart.scorer")).startswith("runs/")]
    for settings in made:
        path = folder / str(settings["smart.scorer"])
        if "smart.downscale" in settings:
            few = ["--kimg=16", "--lr_warmup_kimg=0.3", "--ema_decay=0.98", f"--dir={path.parent}"]
            assert main(["train-scorer", "--config=digits", "--data.resolution=8", *few]) == 0
        else:
            path.parent.mkdir(parents=True)
            path.symlink_to(BUNDLED["digits"])
    return bool(made)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_quick_form_of_every_study_here_runs_and_has_its_values(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.stem == "fashion":
        pytest.skip("its images and its scorer have to be made first, which takes hours")
    if stand_in_scorers(load_plan(path), tmp_path):
        monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
        monkeypatch.chdir(tmp_path)
    assert main(["study", "run", path.stem, "--quick", f"--out={tmp_path}"]) == 0
    plan = follow(load_plan(path, quick=True), tmp_path).plan
    results = read_results(plan, tmp_path)
    assert [result.cell for result in results if result.state == "complete"] == list(plan.cells)
    assert all(math.isfinite(result.values[metric]) for result in results for metric in plan.metrics)


def test_list_names_the_studies_and_wrong_actions_are_said(capsys: pytest.CaptureFixture) -> None:
    assert main(["study", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        re.match(r"digits_augment +The score term and ADA on few images +4 x 6 +32 kimg$", line) for line in lines
    )
    assert main(["study", "runs"]) == 2
    assert "study runs: there is no such action, expected one of run, status, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "line"),
    [("nonsense", "storage is no URL"), ("sqlite:////dev/null/x.db", "storage: sqlite:////dev/null/x.db: unable to")],
)
def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path: Path, url: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Claims(tmp_path, url, "mine")


def test_what_postgresql_refuses_is_one_line_without_the_password(tmp_path: Path, postgresql: str) -> None:
    url = sqlalchemy.make_url(postgresql)
    for wrong in ({"password": "hunter2"}, {"database": "nowhere"}, {"port": 1}):
        with pytest.raises(UserError, match="storage: postgresql://smartfast:.*, expected a database") as error:
            Claims(tmp_path, url.set(**wrong).render_as_string(hide_password=False), "mine")
        line = str(error.value)
        assert "\n" not in line and "hunter2" not in line and url.password not in line and len(line) < 300


def test_studies_of_one_name_on_one_storage_are_as_many_as_their_folders(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    first, other, same = (Claims(tmp_path / folder, url, "mine") for folder in ("a", "b", "a"))
    for claims in (first, other):
        claims.add({"x": True})
    first.complete(first.claim(["x"]))
    assert not same.is_open(["x"]) and other.claim(["x"]).cell == "x"
    with pytest.raises(UserError, match="out .*/a is the folder of the study mine, expected another"):
        Claims(tmp_path / "a", url, "mine-quick")


def test_a_cell_that_two_workers_add_at_once_has_one_owner(tmp_path: Path) -> None:
    first, second = (Claims(tmp_path, None, "mine") for _ in range(2))
    for claims in (first, second):
        claims._storage.create_new_trial(claims._study_id, _waiting("a"))
    claimed = [first.claim(["a"]), second.claim(["a"])]
    assert [claim and claim.cell for claim in claimed] == ["a", None]
    first.complete(claimed[0])
    assert not second.is_open(["a"])
    second.add({"a": False})
    assert second.claim(["a"]) is None
    second.add({"a": True})  # its folder is gone, say
    assert second.claim(["a"]).cell == "a"


def test_a_worker_without_heartbeats_loses_its_cell(tmp_path: Path) -> None:
    away, other = (Claims(tmp_path, None, "mine", beat_sec=1) for _ in range(2))
    away.add({"a": True})
    lost = away.claim(["a"])
    assert other.claim(["a"]) is None and away.beat(lost)
    time.sleep(BEATS_UNTIL_DEAD + 2)
    assert other.claim(["a"]) is None  # what is dead waits from the next look on
    other.add({"a": False})
    assert other.claim(["a"]).cell == "a"
    assert not away.beat(lost)
    away.complete(lost)
    assert other.is_open(["a"])


def _waiting(cell: str) -> object:
    return create_trial(state=TrialState.WAITING, user_attrs={"cell": cell})
