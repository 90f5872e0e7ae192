"""Parameters and moving buffers as views of one tensor each: zeroing, averaging, Adam and EMA are one operation.

Every view starts at a multiple of 128 bytes: kernels load 16 bytes at a time, and one scalar per layer would otherwise
shift everything behind it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

ALIGNMENT_BYTES = 128
_STEP = ALIGNMENT_BYTES // 4


def aligned_zeros(numel: int, device: torch.device | str) -> Tensor:
    """Zeros, float32 [numel], that start at a multiple of 128 bytes."""
    memory = torch.zeros(numel + _STEP, device=device)
    has_address = not isinstance(memory, FakeTensor) and memory.device.type != "meta"
    start = -memory.data_ptr() % ALIGNMENT_BYTES // 4 if has_address else 0
    return memory[start : start + numel]


def round_up(numel: int) -> int:
    """The next number of float32 values that fills whole steps of 128 bytes."""
    return -(-numel // _STEP) * _STEP


class FlatParameters:
    """Moves the parameters of a module that require gradients into one flat tensor, of which they become views.

    Args:
        module: Changed in place; its parameters keep their names, shapes and values.
        channels_last: Lay convolution weights out in NHWC order, frozen ones too.
        prefixes: The parameters whose names begin with one of these come behind the others, prefix by prefix.

    Attributes:
        names: Of the parameters, in the order of `flat`.
        layout: The options, for a copy of the module.
        slices: Of `flat`, one for the parameters without a prefix, then one per prefix.
    """

    def __init__(self, module: nn.Module, *, channels_last: bool = False, prefixes: Sequence[str] = ()) -> None:
        self.module, self.channels_last = module, channels_last
        self.layout: dict[str, Any] = {"channels_last": channels_last, "prefixes": prefixes}
        groups: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(1 + len(prefixes))]
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                if channels_last and parameter.ndim == 4:  # as the activations that it meets
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            else:
                group = next((i for i, prefix in enumerate(prefixes, 1) if name.startswith(prefix)), 0)
                groups[group].append((name, parameter))
        self.names = [name for group in groups for name, _ in group]
        self.parameters = [parameter for group in groups for _, parameter in group]
        sizes = [sum(round_up(p.numel()) for _, p in group) for group in groups]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.slices = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.flat = aligned_zeros(ends[-1], self.parameters[0].device)
        for parameter, view in zip(self.parameters, self.views(self.flat), strict=True):
            view.copy_(parameter.data)
            parameter.data = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat`, a tensor of the size of the flat parameters, with their shapes and memory order."""
        views, start = [], 0
        for parameter in self.parameters:
            piece = flat[start : start + parameter.numel()]
            start += round_up(parameter.numel())
            if self.channels_last and parameter.ndim == 4:
                o, i, h, w = parameter.shape
                views.append(piece.view(o, h, w, i).permute(0, 3, 1, 2))
            else:
                views.append(piece.view(parameter.shape))
        return views


class MovingBuffers:
    """The buffers that forward passes change (batch norm's, spectral norm's), live and pending.

    A forward pass changes the modules' own buffers: those are pending. `commit` makes them live after a good step and
    puts the live ones back after a bad one. They move where a module is one of torch's batch norms, or names them in an
    attribute `moving_buffers`.

    Args:
        modules: The networks of a run; their moving float buffers become views of `pending`.
        device: Where they live.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        owners = [owner for module in modules.values() for owner in _moving(module)]
        floats = [(m, name) for m, name in owners if m.get_buffer(name).is_floating_point()]
        self.counts = [m.get_buffer(name) for m, name in owners if not m.get_buffer(name).is_floating_point()]
        self.live_counts = [count.clone() for count in self.counts]
        sizes = [round_up(m.get_buffer(name).numel()) for m, name in floats]
        self.pending = aligned_zeros(sum(sizes), device)
        for (module, name), piece in zip(floats, self.pending.split(sizes), strict=True):
            buffer = module.get_buffer(name)
            view = piece[: buffer.numel()].view(buffer.shape)
            # Its own version counter: autograd would take the move of one buffer for that of all in the same memory.
            module._buffers[name] = view.copy_(buffer).data
        self.live = self.pending.clone()

    def commit(self, averaged: Tensor, bad: Tensor) -> None:
        """Make `averaged`, the mean of the pending buffers over the processes, live; or, where bad is 1, go back."""
        if not self.pending.numel() and not self.counts:
            return
        is_bad = bad > 0
        self.live.copy_(torch.where(is_bad, self.live, averaged))
        self.pending.copy_(self.live)
        for live, count in zip(self.live_counts, self.counts, strict=True):
            live.copy_(torch.where(is_bad, live, count))
            count.copy_(live)

    def accept(self) -> None:
        """Take the modules' buffers as they are for live ones, after they were loaded."""
        self.live.copy_(self.pending)
        for live, count in zip(self.live_counts, self.counts, strict=True):
            live.copy_(count)


def _moving(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for owner in module.modules():
        names = getattr(owner, "moving_buffers", ())
        if isinstance(owner, _NormBase) and owner.track_running_stats:
            names = [name for name, _ in owner.named_buffers(recurse=False)]
        yield from ((owner, name) for name in names)
