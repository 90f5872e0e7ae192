"""SIGTERM and Ctrl-C are noted; a second Ctrl-C acts."""

import os
import signal

import pytest
import torch

from smartfast.core.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_noted_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption(torch.device("cpu")) as interruption:
        assert not interruption.requested(0)
        os.kill(os.getpid(), number)
        assert interruption.requested(1) and interruption.signal_name == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
