"""The processes of a run: averages over them, and how many are on this machine."""

import os
import socket

import torch
import torch.distributed as dist
from torch import Tensor

# As set by torchrun (and by `accelerate launch` through it), Intel MPI, Open MPI and MVAPICH2.
_LOCAL_SIZE_VARIABLES = (
    "LOCAL_WORLD_SIZE",
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)


def processes_on_this_machine() -> int:
    """How many processes of the run share this machine.

    The launcher's environment says it. Where it does not (processes started by srun, or by hand) they are counted by
    host name, for which every process of the initialized process group has to call this.
    """
    told = next((os.environ[name] for name in _LOCAL_SIZE_VARIABLES if os.environ.get(name)), None)
    if told is not None:
        return int(told)
    if not dist.is_initialized():
        return 1
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts.count(socket.gethostname())


def meeting_place() -> dist.Store | None:
    """The store in which the processes of the initialized group have met; None with one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store()


def average_over_processes_(tensor: Tensor) -> Tensor:
    """Mean over the processes, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean over the processes of an initialized process group, differentiable to any order, eager and compiled.

    Every process has to call it, and to differentiate it, equally often.
    """
    return _sum_over_processes(value) / dist.get_world_size()


# A registered op rather than an autograd.Function, which torch.compile would differentiate wrongly without a word.
@torch.library.custom_op("smartfast::sum_over_processes", mutates_args=())
def _sum_over_processes(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total


@_sum_over_processes.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


def _backward(ctx, gradient: Tensor) -> Tensor:
    return _sum_over_processes(gradient)


_sum_over_processes.register_autograd(_backward)
