"""Whatever is wrong with a file of a run folder: the run goes on, or ends with one line that names it."""

import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import smartfast.core.checkpoint as checkpoint_module
import smartfast.run.evaluations as evaluations_module
import smartfast.run.opening as opening_module
import smartfast.run.trainer as trainer_module
from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.core.files import sha256
from smartfast.run.training import Training

Options = Callable[..., list[str]]
KEPT = dict(run__tracker="tensorboard", run__keep_checkpoints=9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> Path:
    """A run of 0.032 kimg with two checkpoints."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *tiny_options(folder, **KEPT, run__kimg=0.032)]) == 0
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, finished: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def replace(content: bytes) -> Callable[[Path], None]:
    def broken(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content)

    return broken


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes() if path.is_file() else b"a folder")
    content[len(content) // 2] ^= 16
    replace(bytes(content))(path)


def cut(path: Path) -> None:
    replace(path.read_bytes()[: path.stat().st_size // 2] if path.is_file() else b"")(path)


def take_away(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path) -> None:
    take_away(path)
    (path / "within").mkdir(parents=True)


def link_to_itself(path: Path) -> None:
    """No process can open it, not even root's."""
    take_away(path)
    path.symlink_to(path)


WAYS = {
    "empty": replace(b""),
    "cut": cut,
    "binary": replace(random.Random(0).randbytes(300)),
    "bit flipped": flip,
    "text": replace(b"hello\n"),
    "a list": replace(b"[1, 2]\n"),
    "null": replace(b"null\n"),
    "an object": replace(b'{"a": {"b": 1}}\n'),
    "nothing": take_away,
    "a folder": folder,
    "cannot be read": link_to_itself,
}
SLOW = "SMARTFAST_TEST_SLOW" in os.environ
WAYS_PER_FILE = len(WAYS) if SLOW else 4
NEWEST = "checkpoints/000000.032"
FILES = [
    "config.yaml",
    "metrics.jsonl",
    "report.html",
    "reals.png",
    "fakes_init.png",
    "fakes000000.032.png",
    "tensorboard",
    "checkpoints",
    NEWEST,
    f"{NEWEST}/checkpoint.json",
    f"{NEWEST}/state.safetensors",
    f"{NEWEST}/generator_ema.safetensors",
    f"{NEWEST}/generator_ema.json",
]


@pytest.mark.sample(5)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file(
    name: str, finished: Path, tmp_path: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    """Four ways that move on from file to file, so that each way meets several; all of them in a slow run."""
    first = FILES.index(name) * WAYS_PER_FILE
    for way in itertools.islice(itertools.cycle(WAYS), first, first + WAYS_PER_FILE):
        do = WAYS[way]
        run_dir = Path(shutil.copytree(finished, tmp_path / way.replace(" ", "_")))
        do(run_dir / name)
        capsys.readouterr()
        status = main(["train", *tiny_options(run_dir, **KEPT, run__kimg=0.048)])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
        assert (status, len(lines)) in [(0, 0), (2, 1)], way
        if status:
            # Half a file of settings may be one of another run, and a changed fingerprint is that of other data: such a
            # line names the folder and what has changed.
            is_readable = Path(name).name in ("config.yaml", "checkpoint.json")
            assert Path(name).name in lines[0] or is_readable and str(run_dir) in lines[0], (way, lines)
        if name != "checkpoints":
            saved = load_newest(run_dir).info["images"]
            assert saved == 48 or status and saved >= (16 if NEWEST in name else 32), way
        if name == "metrics.jsonl" or NEWEST in name and not name.endswith("checkpoint.json"):
            assert status == 0, (way, lines)
        shutil.rmtree(run_dir)


WRONG_TENSORS = {
    "another shape": lambda x: x.flatten()[:-1].clone(),
    "another dtype": lambda x: x.double(),
    "half precision": lambda x: x.half(),
    "whole numbers": lambda x: x.to(torch.int64),
    "nan": lambda x: torch.full_like(x, torch.nan),
    "one inf": lambda x: x.index_fill(0, torch.tensor([0]), torch.inf),
}


@pytest.mark.parametrize("key", ["g/module/mapping.fc0.weight", "ema/mapping.fc0.weight"])
@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_a_tensor_that_was_changed_and_hashed_again_is_refused(
    wrong: str, key: str, run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    file = run_dir / NEWEST / "state.safetensors"
    state = load_file(file)
    state[key] = WRONG_TENSORS[wrong](state[key])
    before = sha256(file), file.stat().st_size
    save_file(state, file)
    index = run_dir / NEWEST / "checkpoint.json"
    text = index.read_text().replace(before[0], sha256(file))
    index.write_text(text.replace(f'"bytes": {before[1]}', f'"bytes": {file.stat().st_size}'))
    assert main(["train", *tiny_options(run_dir, **KEPT, run__kimg=0.048)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
    assert NEWEST in line and key in line and "expected" in line


def test_all_checkpoints_damaged_is_an_error_and_touches_nothing(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    for state in run_dir.glob("checkpoints/*/state.safetensors"):
        state.write_bytes(state.read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    with pytest.warns(UserWarning):
        assert main(["train", *tiny_options(run_dir, **KEPT, run__kimg=0.048)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
    assert "none of its 2 checkpoints is intact" in line and "choose another run.dir" in line
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "entries", [{"dataset": None}, {"dataset": {}}, {"time_sec": "long"}, {"time_sec": float("inf")}]
)
def test_an_index_without_what_training_needs(
    entries: dict, run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    index = run_dir / NEWEST / "checkpoint.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))
    assert main(["train", *tiny_options(run_dir, **KEPT, run__kimg=0.048)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
    assert f"{NEWEST}/checkpoint.json" in line and next(iter(entries)) in line


MOMENTS = {
    "data": (opening_module, "open_dataset", 1),
    "first tick": (Training, "run_iteration", 1),
    "third tick": (Training, "run_iteration", 5),
    "evaluation": (evaluations_module, "evaluate", 2),
    "snapshot": (checkpoint_module, "save_file", 3),
    "report": (trainer_module, "save_checkpoint", 3),
}
"""Where a function is called for the n-th time."""


@pytest.mark.parametrize(
    ("how", "moment"),
    [
        ("deleted", "data"),
        ("deleted", "first tick"),
        ("renamed", "third tick"),
        ("deleted", "snapshot"),
        *(("made again", moment) for moment in MOMENTS),
    ],
)
def test_a_folder_that_goes_while_the_run_trains(
    how: str,
    moment: str,
    tmp_path: Path,
    tiny_options: Options,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """One line, and nothing of the run in a folder that is made in its place."""
    run_dir, aside = tmp_path / "run", tmp_path / "aside"
    owner, name, number = MOMENTS[moment]
    original, calls = getattr(owner, name), []

    def call(*arguments: object, **options: object) -> object:
        result = original(*arguments, **options)
        calls.append(name)
        if len(calls) == number:
            run_dir.rename(aside)
            if how != "renamed":
                shutil.rmtree(aside)
            if how == "made again":  # at once: file systems give the number of the old one to the new one
                run_dir.mkdir()
        return result

    monkeypatch.setattr(owner, name, call)
    metrics = dict(metrics__every_ticks=1 if moment == "evaluation" else 0, metrics__samples=65)
    assert main(["train", *tiny_options(run_dir, **KEPT, **metrics, run__kimg=0.048)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "features" not in line]
    assert line.startswith(f"smartfast: error: run.dir {run_dir}: was deleted or renamed") and "intact" not in line
    assert run_dir.exists() == (how == "made again") and not list(tmp_path.glob("run/*"))


def test_a_run_shorter_than_a_tick(tmp_path: Path, tiny_options: Options) -> None:
    assert main(["train", *tiny_options(tmp_path, run__kimg=0.008)]) == 0
    assert load_newest(tmp_path).info["images"] == 8 and os.path.isfile(tmp_path / "report.html")
    assert main(["train", *tiny_options(tmp_path, run__kimg=0.008)]) == 0


def test_a_run_that_is_past_what_is_asked_says_so(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    (run_dir / "report.html").unlink()
    assert main(["train", *tiny_options(run_dir, **KEPT, run__kimg=0.016)]) == 0
    text = capsys.readouterr().out
    assert "is at 0.032 kimg, past run.kimg 0.016: nothing is trained" in text and "resumed at" not in text
