"""Time to quality by a stand-in of the training command, whose commits differ in speed."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import add_row, main, reached, record, row_of, run_seed
from smartfast.errors import UserError

TRAINING = """
import json, sys, time
from pathlib import Path
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
seed, folder = int(options["run.seed"]), Path(options["run.dir"])
if "fails" in options:
    print("smartfast: error: no such data")
    sys.exit(2)
folder.mkdir()
with (folder / "metrics.jsonl").open("w") as log:
    for kimg, fd in ((0, 90), (2, 9), (4, 3.5 + seed), (6, 2.5 + seed)):
        time.sleep(WAIT)
        row = {"kind": "metrics", "kimg": kimg, "metric/fd_digits": fd}
        log.write(json.dumps(row) + "\\n")
        log.flush()
"""


def git(root: Path, *words: str) -> None:
    own = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(root), *own, *words], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of two commits, tagged slow and fast: the second waits less."""
    root = tmp_path / "repository"
    (root / "smartfast" / "metrics").mkdir(parents=True)
    git(root, "init", "-q")
    for name, wait in (("slow", "0.3"), ("fast", "0.01")):
        (root / "smartfast" / "train.py").write_text(TRAINING.replace("WAIT", wait))
        git(root, "add", "-A")
        git(root, "commit", "-qm", name)
        git(root, "tag", name)
    return root


TRAIN = (sys.executable, "-S", "smartfast/train.py")


def test_the_first_mean_over_seeds_that_meets_the_target_counts() -> None:
    points = {
        0: {2.0: (1.0, 9.0), 4.0: (2.0, 3.0), 6.0: (3.0, 2.0)},
        1: {2.0: (1.5, 9.0), 4.0: (2.5, 6.0), 6.0: (3.5, 5.0)},
    }
    end = reached(points)
    assert end is not None and end.kimg == 6.0 and end.sec == 3.25 and end.fd_by_seed == {0: 2.0, 1: 5.0}
    assert reached(points, target=3.0) is None
    del points[1][6.0]
    assert reached(points) is None, "not all seeds have come so far"
    sure = reached({seed: {2.0: (1.0, 3.0 + seed / 100)} for seed in range(8)})
    assert sure is not None and sure.p_value == pytest.approx(2**-8)


def test_a_seed_is_stamped_from_its_launch_and_the_start_does_not_count(root: Path, tmp_path: Path) -> None:
    points = run_seed(root, 0, tmp_path, [], TRAIN)
    assert {kimg: fd for kimg, (_, fd) in points.items()} == {2: 9, 4: 3.5, 6: 2.5}
    stamps = [sec for sec, _ in points.values()]
    assert stamps == sorted(stamps) and stamps[0] > 0.01


def test_a_training_that_fails_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed 3 in .* ended with 2: smartfast: error: no such data"):
        run_seed(root, 3, tmp_path, ["--fails=1"], TRAIN)


def test_two_commits_run_in_turns_and_few_seeds_add_no_row(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(argparse.Namespace(seeds=2, against="slow"), [], root, TRAIN) == 0
    out = capsys.readouterr().out
    assert "slow: " in out and "no row: 2 seeds, expected at least 20" in out
    assert "| 2 | " in out and "| +1 -1 |" in out and "at 4 kimg, p" in out
    assert not (root / "RECORDS.md").exists()
    (kept,) = (root / "bench" / "results").glob("record-*.json")
    points = json.loads(kept.read_text())["points"]
    assert set(points["slow"]) == {"0", "1"} and points["slow"]["0"]["4"][0] > 0.9
    worktrees = subprocess.run(["git", "-C", str(root), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(worktrees.stdout.splitlines()) == 1, "the other commit's folder is gone"


def test_a_commit_with_another_metric_is_no_rival(root: Path) -> None:
    (root / "smartfast" / "metrics" / "distance.py").write_text("half = 0.5")
    with pytest.raises(UserError, match="expected a commit of"):
        record(argparse.Namespace(seeds=1, against="nowhere"), [], root, TRAIN)
    git(root, "add", "-A")
    with pytest.raises(UserError, match="smartfast/metrics/distance.py is not committed"):
        record(argparse.Namespace(seeds=1, against=None), [], root, TRAIN)
    git(root, "commit", "-qm", "metric")
    with pytest.raises(UserError, match="distance.py is another there, expected the same metric and data"):
        record(argparse.Namespace(seeds=1, against="slow"), [], root, TRAIN)


def test_rows_follow_one_another_below_one_header(tmp_path: Path) -> None:
    end = reached({seed: {2.0: (10.0 + seed, 3.0)} for seed in range(3)})
    assert end is not None
    for against in (None, ("abc", end)):
        add_row(tmp_path / "RECORDS.md", row_of(end, against, "def", "-", ["--config=digits", "--run.kimg=4"]))
    lines = (tmp_path / "RECORDS.md").read_text().splitlines()
    assert lines[-4].startswith("| date | seconds") and lines[-3].startswith("|---")
    assert "| 11.0 | 2 | 3.000 (sd 0.00) |" in lines[-2] and "abc: 11.0 s at 2 kimg, p 1" in lines[-1]
    assert len({line.count("|") for line in lines[-4:]}) == 1
    assert lines[-1].endswith("| `--config=digits --run.kimg=4` |")


@pytest.mark.parametrize("given", [[], ["--config=r3gan_digits"], ["--config", "r3gan_digits", "--run.kimg=12"]])
def test_the_digits_preset_is_the_base_where_none_is_given(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[list[str]] = []
    monkeypatch.setattr("bench.record.record", lambda options, arguments, root: passed.append(arguments) or 0)
    assert main(["--seeds=20", *given]) == 0
    expected = ["--metrics.every_ticks=1", "--run.tick_kimg=2", *given]
    assert passed == [expected if given else ["--config=digits", *expected]]


def test_no_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="--seeds is 0"):
        main(["--seeds=0"])
