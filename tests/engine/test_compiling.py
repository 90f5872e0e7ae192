"""Where compiled code is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAY_WHERE = """
import torch._dynamo, torch._inductor.codecache
from smartfast.engine.compiling import Compiler, compile_cache_dir
from torch._inductor.runtime.cache_dir_utils import cache_dir
compile_cache_dir()
print(cache_dir())
"""


@pytest.mark.parametrize("is_chosen", [False, True])
def test_compiled_code_outlives_temporary_files(tmp_path: Path, is_chosen: bool) -> None:
    """To import the compiler is enough for its own folder among temporary files to stand in the environment."""
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    environment["SMARTFAST_CACHE"] = str(tmp_path)
    if is_chosen:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "chosen")
    done = subprocess.run(
        [sys.executable, "-c", SAY_WHERE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / ("chosen" if is_chosen else "compiled"))]
