"""Averages over processes, and their number: two of them on the CPU, each of which runs this file."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from smartfast.core.distributed import average_over_processes_, mean_over_processes, processes_on_this_machine

VALUES, WEIGHTS = (1.0, 4.0), (1.0, 3.0)


def work(folder: Path) -> None:
    """One of two processes: its mean, and the gradient of its weighted squared distance from it, eager and compiled."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch._dynamo.config.trace_autograd_ops = True

    def gradient(value: torch.Tensor) -> torch.Tensor:
        loss = WEIGHTS[rank] * (value - mean_over_processes(value)).square()
        return torch.autograd.grad(loss, value)[0]

    value = torch.tensor(VALUES[rank], requires_grad=True)
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    mean = average_over_processes_(value.detach().clone())
    torch.save([mean, mean_over_processes(value).detach(), gradient(value), compiled(value)], folder / str(rank))
    named = processes_on_this_machine()
    del os.environ["LOCAL_WORLD_SIZE"]
    (folder / f"{rank}.processes").write_text(f"{named} {processes_on_this_machine()}")
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an interpreter that ends on a busy machine (pytorch #179291)


def test_mean_and_its_gradient_over_two_processes(tmp_path: Path) -> None:
    """loss_r = weight_r * (value_r - mean)^2; the gradient is that of the sum over both processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    subprocess.run([*launcher, __file__, str(tmp_path)], check=True, timeout=120)
    mean = sum(VALUES) / 2
    direct = [2 * w * (v - mean) for v, w in zip(VALUES, WEIGHTS, strict=True)]
    for rank in range(2):
        expected = direct[rank] - sum(direct) / 2
        result = [value.item() for value in torch.load(tmp_path / str(rank), weights_only=True)]
        assert result == [mean, mean, expected, expected]
        assert (tmp_path / f"{rank}.processes").read_text() == "2 2"  # as torchrun says, and counted by host names


if __name__ == "__main__":
    work(Path(sys.argv[1]))
