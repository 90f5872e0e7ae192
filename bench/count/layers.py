"""The calls of the ops in a training, recorded from its own phases: layers, dtypes, layouts, arguments of any network.

Every phase that runs computes once on tensors without data, in the precision of a GPU.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from bench.base import family
from bench.base.jobs import Job
from bench.base.ways import implemented_by
from bench.count.counter import half_as_on_gpu
from bench.count.tracing import Trace
from smartfast import kernels
from smartfast.kernels import memory_format
from smartfast.kernels.upfirdn2d.op import Resampling

COMPOSITES = ("conv2d_resample", "modulated_conv2d")
"""Ops whose resampling filters are listed by themselves too: what the filter alone costs at that layer."""
FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        kernels.bias_act,
        kernels.conv2d_resample,
        kernels.denoise_distance,
        kernels.denoise_distance_and_gradient,
        kernels.grouped_linear,
        kernels.l2_attention,
        kernels.modulated_conv2d,
        kernels.noise_forward,
        kernels.upfirdn2d,
        kernels.upsample2d,
        kernels.warp2d,
    )
}
_SHARED = ("b", "bias", "f", "weight")
"""Arguments that all images of a batch share."""


@dataclass(frozen=True, eq=False)
class Case:
    """One call of a public function of `smartfast.kernels`; arguments that require grad are differentiated.

    resolution: Of the training's images.
    """

    op: str
    resolution: int
    layer: str
    arguments: dict[str, Any] = field(repr=False)

    @property
    def x(self) -> Tensor:
        """The images that the op works on."""
        return next(value for value in self.arguments.values() if isinstance(value, Tensor))

    @property
    def leaves(self) -> list[Tensor]:
        """What a gradient is taken for."""
        return [value for value in self.arguments.values() if isinstance(value, Tensor) and value.requires_grad]

    def run(self, implementation: str) -> Tensor:
        """The result; the first one where there are several."""
        result = FUNCTIONS[self.op](**self.arguments, impl=implementation)
        return result if isinstance(result, Tensor) else result[0]

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> "Case":
        """The same call with other tensors: what `change` makes of each argument."""
        items = self.arguments.items()
        values = {name: change(name, value) if isinstance(value, Tensor) else value for name, value in items}
        return replace(self, arguments=values)

    def __str__(self) -> str:
        return f"{self.resolution} {self.layer}"


def recorded_cases(job: Job) -> list[Case]:
    """Each different call once, named after the first layer that makes it, on the meta device.

    A tensor requires a gradient where it does in any phase; the batch is that of the first phase that makes the call.
    """
    training = job.training(compile=False, cuda_graphs=False)
    recorder = _Recorder(job.dataset.resolution)
    modules = family.modules(training, job.scorer)
    with FakeTensorMode(allow_non_fake_inputs=True), kernels.use("aten"), half_as_on_gpu():
        for name in family.runs_per_iteration(training):
            with Trace() as trace, trace.following(modules), recorder.listening(trace, name):
                training.phases[name].compute(training.rounds[0])
    different = {_content(case): case for case in reversed(recorder.cases.values())}
    return list(reversed(different.values()))


def enlarged(case: Case, factor: int) -> Case:
    """The same call with `factor` times as many images, beyond cache."""
    images = case.x.shape[0]

    def more(name: str, value: Tensor) -> Tensor:
        is_shared = name in _SHARED or value.shape[0] != images
        return value if is_shared else _empty((factor * images, *value.shape[1:]), value)

    return replace(case.changed(more), layer=f"{case.layer}, beyond cache")


def contiguous(case: Case) -> Case:
    """The same call on images that are stored as NCHW."""
    return case.changed(lambda _, value: value.detach().contiguous().requires_grad_(value.requires_grad))


def every_target(case: Case) -> Iterator[Case]:
    """A call of a distance for scorers that predict eps, x0 and v; of one through the network, past it as well."""
    for kind in ("eps", "x0", "v"):
        asked = replace(case, layer=f"{case.layer}, {kind}", arguments=case.arguments | {"parameterization": kind})
        yield asked
        if case.op == "denoise_distance":
            past = asked.changed(lambda _, value: value.detach())
            yield replace(past, op="denoise_distance_and_gradient", arguments=past.arguments | {"overwrite": True})


class _Recorder:
    """Notes the calls of the ops' public functions, and of the filters inside composites."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.cases: dict[tuple[str, str], Case] = {}
        self._running: list[str] = []
        self._trace, self._phase = Trace(), ""

    @contextmanager
    def listening(self, trace: Trace, phase: str) -> Iterator[None]:
        """Within it every module of the project calls the ops through the recorder."""
        self._trace, self._phase = trace, phase
        with ExitStack() as stack:
            for op, function in FUNCTIONS.items():
                _replace_everywhere(function, self._noted(op, function), stack)
            for op in ("upfirdn2d", "upfirdn2d_finish"):
                stack.enter_context(implemented_by(op, "aten", self._noted_filter))
            yield

    def _noted(self, op: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._running:
                arguments = signature.bind(*args, **kwargs).arguments
                self._add(
                    op,
                    self._trace.layer or self._phase,
                    {name: arguments[name] for name in arguments if name != "impl"},
                )
            self._running.append(op)
            try:
                return function(*args, **kwargs)
            finally:
                self._running.pop()

        return call

    def _noted_filter(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, f: Tensor | None, resampling: Resampling, *more: Any) -> Tensor:
            if self._running and self._running[-1] in COMPOSITES:
                up, down, pads, flip, gain = resampling
                about = dict(x=x, f=f, up=up, down=down, padding=pads, flip_filter=flip, gain=float(gain))
                self._add("upfirdn2d", f"{self._trace.layer} filter", about)
            return plain(x, f, resampling, *more)

        return call

    def _add(self, op: str, layer: str, arguments: dict[str, Any]) -> None:
        with unset_fake_temporarily():  # a fake tensor would make what is measured later fake as well
            values = {name: _without_data(value) for name, value in arguments.items()}
        known = self.cases.setdefault((op, layer), Case(op, self.resolution, layer, values))
        for name, value in values.items():
            if isinstance(value, Tensor) and value.requires_grad:
                known.arguments[name].requires_grad_()


def _replace_everywhere(function: Callable[..., Any], other: Callable[..., Any], stack: ExitStack) -> None:
    """Wherever a module of the project has imported a function, it finds another within the stack."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "smartfast":
            for attribute, value in list(vars(module).items()):
                if value is function:
                    stack.enter_context(patch.object(module, attribute, other))


def _without_data(value: Any) -> Any:
    """What stands for an argument; where no gradients are taken, none is for it."""
    if not isinstance(value, Tensor):
        return value
    return _empty(value.shape, value if torch.is_grad_enabled() else value.detach())


def _empty(shape: Iterable[int], like: Tensor) -> Tensor:
    """Of the dtype, the memory order and the need of a gradient of `like`; of another batch without its gaps."""
    shape = tuple(shape)
    if shape == like.shape:
        made = torch.empty_strided(shape, like.stride(), dtype=like.dtype, device="meta")
    else:
        made = torch.empty(shape, dtype=like.dtype, device="meta", memory_format=memory_format(like))
    return made.requires_grad_(like.requires_grad)


def _content(case: Case) -> tuple[Any, ...]:
    """What makes two calls the same measurement."""

    def key(value: Any) -> Any:
        return (value.shape, value.stride(), value.dtype, value.requires_grad) if isinstance(value, Tensor) else value

    return (case.op, *((name, key(value)) for name, value in sorted(case.arguments.items())))
