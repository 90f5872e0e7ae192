"""The process that verifies kernels, with a fault in bias_act: `python faulty_kernels.py FAULT CALLS DEVICE`."""

import os
import signal
import sys
import time
from typing import Any

import torch
from torch import Tensor

from smartfast.kernels import verify
from smartfast.kernels.selection import register


def hang(**_: Any) -> Tensor:
    time.sleep(600)
    raise AssertionError("killed before")


def crash(**_: Any) -> Tensor:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)
    raise AssertionError("killed before")


def without_memory(**_: Any) -> Tensor:
    raise torch.OutOfMemoryError("another job has it")


def without_compiler(**_: Any) -> Tensor:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def killed(**_: Any) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed before")


if __name__ == "__main__":
    register("bias_act", "triton", globals()[sys.argv[1]])
    verify.main(sys.argv[2:])
