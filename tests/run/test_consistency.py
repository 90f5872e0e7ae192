"""A run whose processes no longer agree ends by name before it saves what differs; each of two runs this file."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.data import RealBatch
from smartfast.run.training import Training

TENSOR = "d/exp_avg_sq/b8.fromrgb.weight"


@pytest.mark.slow
def test_a_flipped_bit_of_one_process_ends_the_run(tmp_path: Path, tiny_options: Callable[..., list[str]]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *tiny_options(tmp_path)]
    ended = subprocess.run(command, timeout=900, env=environment, capture_output=True, text=True)
    lines = {line for line in ended.stderr.splitlines() if line.startswith("smartfast: error: ")}
    (line,) = lines  # every process says the same
    assert ended.returncode != 0
    assert f"{TENSOR} of process 1 is not that of process 0 at 0.032 kimg" in line
    assert load_newest(tmp_path).info["images"] == 16


def run_iteration(self: Training, reals: RealBatch, original: Callable = Training.run_iteration) -> None:
    original(self, reals)
    if self.images == 32 and dist.get_rank() == 1:
        self.state()[TENSOR].view(torch.int32).view(-1)[0] ^= 1


if __name__ == "__main__":
    Training.run_iteration = run_iteration  # type: ignore[method-assign]
    sys.exit(main(["train", *sys.argv[1:]]))
