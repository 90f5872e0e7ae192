"""Checksums of bits, and their comparison over two gloo processes, each of which runs this file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from smartfast.core.consistency import check_consistency, checksums
from smartfast.errors import UserError

SEED = 3


def state() -> dict[str, torch.Tensor]:
    """One tensor of every kind that a run's state has, and of some that it might."""
    rng = torch.Generator("cpu").manual_seed(SEED)
    image = torch.randn(3, 5, 7, 9, generator=rng)
    return {
        "weight": image,
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "view": torch.randn(40, generator=rng)[3:38:5],
        "scalar": torch.randn([], generator=rng),
        "half": torch.randn(33, generator=rng).half(),
        "bf16": torch.randn(33, generator=rng).bfloat16(),
        "double": torch.randn(11, generator=rng).double(),
        "count": torch.tensor(2**62),
        "flags": torch.randn(13, generator=rng) > 0,
        "empty": torch.empty(0),
    }


def flip(value: torch.Tensor, bit: int) -> None:
    """Flip one bit of a tensor's first number."""
    words = value.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]).flatten()
    words[0] ^= words.new_tensor(1) << bit


def test_a_checksum_is_the_sum_of_the_bits() -> None:
    """numpy, which knows nothing of layouts of ours, adds the same words."""
    found = checksums(state())
    words = {2: np.int16, 4: np.int32, 8: np.int64, 1: np.uint8}
    for (name, value), sum_ in zip(state().items(), found.tolist(), strict=True):
        bits = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        array = np.ascontiguousarray(bits.numpy()).reshape(-1)
        assert sum_ == int(array.view(words[value.element_size()]).astype(np.int64).sum()), name
    assert found[0] == found[1], "the same numbers in another memory layout"


@pytest.mark.parametrize(("name", "bits"), [("weight", 32), ("half", 16), ("double", 64), ("scalar", 32)])
def test_every_single_bit_counts(name: str, bits: int) -> None:
    for bit in range(bits):
        changed = state()
        flip(changed[name], bit)
        differs = checksums(changed) != checksums(state())
        assert [n for n, different in zip(changed, differs.tolist(), strict=True) if different] == [name]


def test_it_reads_every_byte_once_and_makes_nothing_large() -> None:
    class Made(TorchDispatchMode):
        read = written = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.sum.dim_IntList or func is torch.ops.aten.sum.default:
                self.read += args[0].nbytes
                self.written += result.nbytes
            return result

    tensors = {"large": torch.randn(1000, 1000), "small": torch.randn(7)}
    with Made() as made:
        checksums(tensors)
    assert made.read == sum(value.nbytes for value in tensors.values())
    assert made.written == 8 * len(tensors)


def test_one_process_compares_nothing() -> None:
    check_consistency({"weight": torch.tensor(float("nan"))}, "at 1 kimg")


def work(folder: Path, rank: int) -> None:
    """One of two processes: what it is told of equal tensors, and of some where it alone has other bits."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    told = []
    for odd, names in ((None, []), (1, ["half"]), (0, ["scalar", "double", "weight"])):
        tensors = state()
        for name in names if rank == odd else []:
            flip(tensors[name], 0)
        try:
            check_consistency(tensors, "at 12.000 kimg")
            told.append("equal")
        except UserError as error:
            told.append(str(error))
    (folder / str(rank)).write_text("\n".join(told))
    dist.destroy_process_group()
    os._exit(0)  # as in tests/core/test_distributed.py


def test_two_processes_name_the_tensor_and_each_other(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    first, second = ((tmp_path / str(rank)).read_text().splitlines() for rank in range(2))
    assert first == second and first[0] == "equal"
    assert first[1].startswith("half of process 1 is not that of process 0 at 12.000 kimg, expected the same bits")
    assert first[2].startswith("weight (and 2 more tensors) of process 1 is not that of process 0")


def test_of_three_the_one_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(results: list[torch.Tensor], own: torch.Tensor) -> None:
        for rank, result in enumerate(results):
            result.copy_(own + (rank == 0))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather", gather)
    with pytest.raises(UserError, match=r"^weight of process 0 is not that of process 1 at 1 kimg"):
        check_consistency({"weight": torch.ones(3)}, "at 1 kimg")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
