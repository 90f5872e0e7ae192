"""An idle device is seen: shares by hand, and what a stand-in for the profiler reports."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from bench.base import device_profile as module
from bench.base.device_profile import device_profile, idle_share


@pytest.mark.parametrize(
    "spans, share",
    [
        ([], None),
        ([(2.0, 5.0)], 0.0),
        ([(0.0, 1.0), (3.0, 4.0)], 0.5),
        ([(6.0, 8.0), (0.0, 4.0), (1.0, 2.0)], 0.25),  # out of order, one inside another
    ],
)
def test_idle_share_by_hand(spans: list[tuple[float, float]], share: float | None) -> None:
    assert idle_share(spans) == share


class Event(SimpleNamespace):
    """As those of the profiler, in nanoseconds."""

    def __init__(self, start: int, duration: int, device: DeviceType = DeviceType.CUDA, is_range: bool = False) -> None:
        super().__init__(
            start_ns=lambda: start,
            duration_ns=lambda: duration,
            device_type=lambda: device,
            is_user_annotation=lambda: is_range,
        )


def test_launches_and_idle_share_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: the profiler and the waiting are stand-ins, the events are counted by hand."""
    kernels = [Event(0, 10), Event(15, 5), Event(12, 4), Event(32, 8)]
    others = [Event(0, 100, DeviceType.CPU), Event(0, 100, is_range=True)]
    events: list[Event] = kernels + others

    class Profile:
        def __init__(self, activities: list[object], acc_events: bool) -> None:
            self.profiler = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events))

        def __enter__(self) -> "Profile":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(module, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    called: list[int] = []
    found = device_profile(lambda: called.append(1), torch.device("cuda"), calls=2)
    assert found == {"launches": 2.0, "idle_share": pytest.approx((2 + 12) / 40)} and called == [1, 1]
    events = others
    assert device_profile(lambda: None, torch.device("cuda")) == {}
    assert device_profile(lambda: called.clear(), torch.device("cpu")) == {} and called
