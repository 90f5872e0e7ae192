"""The command `smartfast` itself."""

import os
import subprocess
import sys
import warnings

import pytest

from smartfast import __version__
from smartfast.cli import COMMANDS, EXIT_INTERRUPTED, main
from smartfast.config.parse import SCORER_CONFIGS, presets


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture) -> None:
    try:
        status = main([command, "--help"])
    except SystemExit as end:  # argparse ends the process
        status = end.code
    assert status in (0, None)
    assert f"smartfast {command}" in capsys.readouterr().out


def test_help_names_the_presets_and_whose_defaults_it_shows(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(presets()) in said and "those of gan.family stylegan2 without a preset" in said
    assert "(type: number from 0.001 to 1e9, default: 25000.0)" in said


def test_help_of_train_scorer_names_its_own_presets(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train-scorer", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"YAML file or name of a preset: {', '.join(presets(SCORER_CONFIGS))};" in said
    assert main(["train-scorer", "--config", "cifar10"]) == 2
    assert f"no such file; the presets are {', '.join(presets(SCORER_CONFIGS))}\n" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"smartfast {__version__}\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "smartfast", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and __version__ in done.stdout


def test_warnings_are_one_line_without_a_place_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert main(["presets", "x"]) == 2
    line = warnings.formatwarning(UserWarning("two\nlines"), UserWarning, "file.py", 7, "code()")
    assert line == "smartfast: warning: two lines\n"


@pytest.mark.parametrize("command", [["study", "list"], ["presets"], ["--help"], ["train", "--help"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(command: list[str]) -> None:
    """As `| head` does: the pipe is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "smartfast", *command]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == (0 if "train" in command else EXIT_INTERRUPTED)  # argparse takes it for its own help
