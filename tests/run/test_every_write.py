"""A full disk, or a kill, at any file that a run makes: one line or none, and nothing that was saved is lost."""

import errno
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows

Options = Callable[..., list[str]]
SLOW = "SMARTFAST_TEST_SLOW" in os.environ
KILLED = 9
TRAIN = dict(run__tracker="tensorboard", metrics__every_ticks=2, metrics__samples=65, run__snapshot_ticks=1)

_reached: list[Callable[[str], None]] = []  # what happens when a file is about to be made; an audit hook stays for good
_below: list[Path] = []


def _audit(event: str, arguments: tuple) -> None:
    if not _reached or event not in ("open", "os.mkdir") or not isinstance(arguments[0], str | os.PathLike):
        return
    is_written = event == "os.mkdir" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if is_written and _below[0] in Path(arguments[0]).parents:
        _reached[0](os.fspath(arguments[0]))


sys.addaudithook(_audit)


@contextmanager
def at_file(number: int, do: Callable[[str], None], folder: Path) -> Iterator[list[int]]:
    """Call `do` with its path whenever the `number`-th or a later file or folder is about to be made below `folder`."""
    count = [0]

    def reached(path: str) -> None:
        count[0] += 1
        if count[0] >= number:
            do(path)

    _reached.append(reached)
    _below.append(folder)
    try:
        yield count
    finally:
        _reached.clear()
        _below.clear()


def train_command(tiny_options: Options, run_dir: Path) -> list[str]:
    return ["train", *tiny_options(run_dir, **TRAIN)]


def scorer_command(tiny_options: Options, run_dir: Path) -> list[str]:
    settings = {"dir": run_dir, "data.resolution": 8, "unet.block_out_channels": "[4,8]", "unet.layers_per_block": 1}
    settings |= {"unet.attention": "[]", "unet.attention_head_dim": 4, "unet.norm_groups": 2, "unet.dropout": 0}
    settings |= {"kimg": 0.024, "batch": 6, "tick_kimg": 0.012, "snapshot_kimg": 0.012, "sample_rows": 1}
    settings |= {"sample_steps": 2, "tracker": "tensorboard", "holdout": 3}
    return ["train-scorer", *(f"--{name}={value}" for name, value in settings.items())]


COMMANDS = [train_command, scorer_command]


def contents(run_dir: Path) -> tuple[list[tuple[str, float]], list[str], dict[str, torch.Tensor]]:
    """What an interrupted run must end with: kind and kimg of every row, all files but the tracker's, and the state."""
    rows = [(row["kind"], row["kimg"]) for row in read_rows(run_dir / "metrics.jsonl")]
    files = [path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()]
    return rows, sorted(file for file in files if "tensorboard" not in file), load_newest(run_dir).state


def whole_run(command_of: Callable[..., list[str]], tiny_options: Options, folder: Path) -> tuple[int, tuple]:
    """How many files a run makes once the caches are there, and what it ends with."""
    assert main(command_of(tiny_options, folder / "first")) == 0
    with at_file(1 << 30, lambda path: None, folder) as count:
        assert main(command_of(tiny_options, folder / "whole")) == 0
    return count[0], contents(folder / "whole")


def assert_ends_alike(run_dir: Path, command: list[str], expected: tuple, moment: object) -> None:
    assert main(command) == 0, moment
    (rows, files, state), (expected_rows, expected_files, expected_state) = contents(run_dir), expected
    assert rows == expected_rows, moment
    assert files == expected_files, moment
    assert [name for name in expected_state if not torch.equal(state[name], expected_state[name])] == [], moment


def assert_whole(run_dir: Path, moment: object) -> None:
    """Nothing half-written, and every checkpoint that is there is intact."""
    left = [path.name for path in run_dir.rglob("*") if ".partial" in path.name or "lock" in path.name]
    assert not left, moment
    for folder in (run_dir / "checkpoints").glob("0*"):
        load_file(folder / "generator_ema.safetensors")
    if (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").glob("0*")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_newest(run_dir)


def moments(total: int, command_of: Callable) -> list[int]:
    """Twenty for a training, fewer for what shares all but a few files with it, and in a quick run."""
    count = (20 if command_of is train_command else 6) if SLOW else (5 if command_of is train_command else 3)
    return sorted({round(1 + i * (total - 1) / (count - 1)) for i in range(count)})


@pytest.mark.sample(12)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command_of", COMMANDS, ids=["train", "train-scorer"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_the_disk_is_full_from_any_file_on(
    number: int,
    command_of: Callable[..., list[str]],
    tmp_path: Path,
    own_cache: Path,
    tiny_options: Options,
    capsys: pytest.CaptureFixture,
) -> None:
    """No room or no inode left, or a folder that has become read-only."""
    count, expected = whole_run(command_of, tiny_options, tmp_path)

    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    chosen = moments(count, command_of)
    for moment in chosen if number == errno.ENOSPC else chosen[::4]:
        run_dir = tmp_path / str(moment)
        command = command_of(tiny_options, run_dir)
        capsys.readouterr()
        with at_file(moment, fail, tmp_path):
            status = main(command)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
        assert status == 2 and len(lines) == 1, (moment, lines)
        assert os.strerror(number) in lines[0], (moment, lines)
        assert_whole(run_dir, moment)
        if moment in chosen[::4]:
            assert_ends_alike(run_dir, command, expected, moment)


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command_of", COMMANDS, ids=["train", "train-scorer"])
def test_no_file_may_grow_beyond_any_size(
    command_of: Callable[..., list[str]],
    tmp_path: Path,
    own_cache: Path,
    tiny_options: Options,
    capsys: pytest.CaptureFixture,
) -> None:
    """A limit on the size of files stands for a disk that is full in the middle of one."""
    assert main(command_of(tiny_options, tmp_path / "whole")) == 0
    expected = contents(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 100, 500, 1000, 2000, 3000, 5000, 10_000, 30_000, 100_000) if SLOW else (1, 1000, 30_000):
        run_dir = tmp_path / str(limit)
        command = command_of(tiny_options, run_dir)
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            status = main(command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("smartfast: error")]
        assert (status, len(lines)) in [(2, 1), (0, 0)], (limit, lines)
        assert status == 0 or "File too large" in lines[0], (limit, lines)
        assert_whole(run_dir, limit)
        assert_ends_alike(run_dir, command, expected, limit)


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command_of", COMMANDS, ids=["train", "train-scorer"])
def test_a_kill_before_any_file_costs_no_row_and_adds_none(
    command_of: Callable[..., list[str]], tmp_path: Path, own_cache: Path, tiny_options: Options
) -> None:
    count, expected = whole_run(command_of, tiny_options, tmp_path)
    chosen = moments(count, command_of)[:-1]
    for moment in chosen if SLOW else chosen[1::3]:
        run_dir = tmp_path / str(moment)
        command = command_of(tiny_options, run_dir)
        killed = [sys.executable, __file__, str(moment), str(tmp_path), *command]
        assert subprocess.run(killed, capture_output=True).returncode == KILLED, moment
        assert_ends_alike(run_dir, command, expected, moment)


if __name__ == "__main__":  # a process that ends without another instruction at a file
    with at_file(int(sys.argv[1]), lambda path: os._exit(KILLED), Path(sys.argv[2])):
        sys.exit(main(sys.argv[3:]))
