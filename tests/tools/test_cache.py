"""Compiled code travels as one file, which is refused wherever it cannot be true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smartfast.cli import main
from smartfast.engine.portable_cache import combination, export_compiled, import_compiled
from smartfast.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of a process that has compiled something, by torch's word."""
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"code\nof phases", object()))
    file = tmp_path / "code"
    assert export_compiled(file, CPU) == 14
    return file


def test_a_file_says_what_it_is_for(file: Path) -> None:
    line, _, content = file.read_bytes().partition(b"\n")
    header = json.loads(line)
    assert content == b"code\nof phases"
    assert header["torch"] == torch.__version__ and combination(CPU).items() <= header.items()


@pytest.mark.parametrize("name", ["python", "torch", "triton", "device"])
def test_a_file_of_another_combination_is_refused(name: str, file: Path) -> None:
    line, _, content = file.read_bytes().partition(b"\n")
    file.write_bytes(json.dumps(json.loads(line) | {name: "other"}).encode() + b"\n" + content)
    with pytest.raises(UserError, match=rf"cache import .*code: it is for {name} other \(here ") as caught:
        import_compiled(file, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found no header"),
        (b"\xff\xfe\n", "found no header"),
        (b"[]\ncode", "found no header"),
        (b'{"format": "zip"}\ncode', "found no header"),
    ],
)
def test_what_is_no_such_file_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_bytes(content)
    with pytest.raises(UserError, match=words):
        import_compiled(file, CPU)


def test_a_damaged_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged or cut off"):
        import_compiled(file, CPU)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["save"], "cache save: expected cache export FILE"),
        (["import"], "cache import: found nothing, expected a FILE"),
        (["import", "a", "b"], "cache import: found a b, expected a FILE"),
        (["export", "--config=digits"], "cache export: found --config=digits, expected a FILE"),
        (["import", "/nowhere/code"], "cache import /nowhere/code: No such file or directory"),
    ],
)
def test_a_command_line_that_is_wrong_gets_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *arguments]) == 2
    assert words in capsys.readouterr().err


CHILD = """
import sys, torch
from pathlib import Path
from torch._dynamo.utils import counters
from smartfast.engine.compiling import compile_cache_dir
from smartfast.engine.portable_cache import export_compiled, import_compiled
compile_cache_dir()
file, device = Path(sys.argv[2]), torch.device("cpu")
if sys.argv[1] == "import":
    assert import_compiled(file, device) > 0
torch.compile(lambda x: (x.sin() * 2).sum(), fullgraph=True)(torch.ones(5))
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
if sys.argv[1] == "export":
    export_compiled(file, device)
"""


@pytest.mark.slow
def test_code_that_was_imported_is_not_compiled_again(tmp_path: Path) -> None:
    outputs = []
    for action in ("export", "import"):
        own = {"SMARTFAST_CACHE": str(tmp_path / action), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / action)}
        command = [sys.executable, "-c", CHILD, action, str(tmp_path / "code")]
        done = subprocess.run(command, env=os.environ | own, check=True, capture_output=True, text=True)
        outputs.append(done.stdout.split())
    assert [int(count) > 0 for count in outputs[0]] == [False, True]
    assert [int(count) > 0 for count in outputs[1]] == [True, False]
