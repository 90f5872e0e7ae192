"""What a GPU does during a call: how many launches, and how long it is idle between them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def device_profile(call: Callable[[], object], device: torch.device, *, calls: int = 1) -> dict[str, Any]:
    """launches: kernels, copies and fills per call; idle_share: of the time when the device does nothing between them.

    Nothing on a CPU, where there is no device to wait for, and where the profiler saw nothing. A process may be slower
    afterwards: profile when everything is timed.
    """
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(calls):
            call()
        torch.cuda.synchronize(device)
    # Not profiler.events(), which makes a tree of Python objects of all launches.
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.device_type() == DeviceType.CUDA]
    spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if not e.is_user_annotation()]
    return {"launches": len(spans) / calls, "idle_share": idle_share(spans)} if spans else {}


def idle_share(spans: Iterable[tuple[float, float]]) -> float | None:
    """Share of the time from the first start to the last end that no span covers; None without spans.

    Args:
        spans: Starts and ends, in any order; they may overlap.
    """
    ordered = sorted(spans)
    if not ordered:
        return None
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - ordered[0][0]
    return 1 - busy / whole if whole else 0.0
