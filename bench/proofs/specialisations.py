"""Every specialisation of the Triton kernels that the trainings launch, and what is asked of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product, starmap
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bench.base.jobs import EAGER, Loop, job_config, open_job
from bench.base.ways import implemented_by
from bench.count.layers import Case, contiguous, every_target
from bench.count.other_cases import OPS, other_cases
from bench.count.sizes import PAPER, SIZES, WITHOUT_SCORE, usual_cases
from bench.count.tracing import trace
from bench.proofs.ahead_of_time import Specialisation, specialise
from smartfast import kernels
from smartfast.kernels import Activation, Epilogue, selection
from smartfast.kernels.conv2d import gemm
from smartfast.kernels.grouped_linear import triton as experts
from smartfast.kernels.runtime import Launch, is_channels_last, record_launches

WIDE_CHANNELS = 8
EVERY_USE = (
    "Every specialisation that the StyleGAN2 configurations at 32, 64, 128, 256 and 1024 pixels launch: forward, "
    "backward and second derivative, fp16 and fp32 as NHWC and NCHW, and bf16 as NHWC at 256 pixels, where only the "
    "type differs from fp16. The score term's ops for scorers in fp32, fp16 and bf16 that predict eps, x0 and v, at 32 "
    "pixels. conv_gemm, which no configuration takes unless it was measured to be faster, at all sizes "
    "from 8 to 1024 pixels in fp16, fp32 and tf32, and in bf16 at 256, with and without the styles of a next layer. "
    "All of these with aligned pointers; and a real iteration of the digits preset in fp32, NHWC and bf16, with the "
    "pointers that the trainer's tensors have."
)
OTHER_USE = (
    "Every specialisation of the ops that StyleGAN2 does not call: attention by distance and the linear layers of "
    "experts at Aurora's widths, forward and backward in fp16, bf16 and fp32 (the experts in tf32 as well), and ADA's "
    "warp and its adjoint in fp16 and fp32 at 32 and 256 pixels."
)
REAL_ITERATIONS = ((), ("--perf.channels_last=true",), ("--perf.precision=bf16", "--perf.channels_last=true"))
GEMM_SIZES = (PAPER, "stylegan2_1024")
"""They hold all sizes and widths."""


@dataclass
class Use:
    """What launches of one specialisation have in common.

    layers: Calls that launch it, in order. wide_load, wide_store: Its largest input, or output, are NHWC images with a
    multiple of 8 channels, so that 128-bit accesses are possible. is_reduction: All outputs are small beside it.
    element_bits: Of an element of the largest output, or of the largest input in a reduction.
    """

    layers: list[str] = field(default_factory=list)
    wide_load: bool = False
    wide_store: bool = False
    is_reduction: bool = False
    element_bits: int = 0

    def add(self, launch: Launch, layer: str) -> None:
        if layer not in self.layers:
            self.layers.append(layer)
        tensors = {name: value for name, value in launch.arguments.items() if isinstance(value, Tensor)}
        written = _largest(tensors[name] for name in launch.written if name in tensors)
        read = _largest(value for name, value in tensors.items() if name not in launch.written)
        self.wide_load |= _is_wide(read)
        self.wide_store |= _is_wide(written)
        self.is_reduction = read is not None and (written is None or 8 * written.numel() <= read.numel())
        largest = read if self.is_reduction else written
        self.element_bits = 0 if largest is None else 8 * largest.element_size()


def _largest(tensors: Iterable[Tensor]) -> Tensor | None:
    return max(tensors, key=Tensor.numel, default=None)


def _is_wide(x: Tensor | None) -> bool:
    return x is not None and x.ndim == 4 and x.shape[1] % WIDE_CHANNELS == 0 and is_channels_last(x)


Task = tuple[Specialisation, int]
"""A specialisation and the compute capability (90 = 9.0) to compile it for."""


def collect(calls: Iterable[tuple[str, Case]], capabilities: Sequence[int]) -> dict[Task, Use]:
    """Specialisations that calls of the trainings of these sizes launch."""
    uses: dict[Task, Use] = {}
    for name, case in calls:
        for layer, launches, suited in _launches(name, case, capabilities):
            for launch, capability in product(launches, suited):
                uses.setdefault((specialise(launch), capability), Use()).add(launch, layer)
    return uses


def calls_of(name: str, precision: str) -> Iterator[tuple[str, Case]]:
    """The calls of a training without the score term, as NHWC and, but in bf16, as NCHW."""
    settings = (WITHOUT_SCORE, f"--perf.precision={precision}", "--perf.channels_last=true")
    for case in usual_cases(name, "cuda", settings):
        yield name, case
        if precision != "bf16":
            yield name, contiguous(case)


def score_calls(precisions: Sequence[str] = ("fp32", "fp16", "bf16")) -> Iterator[tuple[str, Case]]:
    """The calls of the score term, for scorers of these precisions and of every kind of prediction."""
    name = "cifar10"
    for precision, through in product(precisions, ("true", "false")):
        settings = (f"--smart.precision={precision}", f"--smart.through_network={through}")
        for case in usual_cases(name, "cuda", settings):
            for one in every_target(case) if case.op.startswith("denoise") else [case] * (case.op == "noise_forward"):
                yield from ((name, one), (name, contiguous(one)))


def _launches(name: str, case: Case, capabilities: Sequence[int]) -> Iterator[tuple[str, list[Launch], Sequence[int]]]:
    """Layer, its launches (forward, backward, second derivative), and the capabilities that they are for."""
    if case.op in OPS:
        yield from _other_launches(case, capabilities)
        return
    yield str(case), trace(partial(case.run, "triton"), case.leaves, order=2).launches, capabilities
    if is_channels_last(case.x) and _may_take_conv_gemm(name, case):
        precisions = ("ieee", "tf32") if case.x.dtype == torch.float32 else ("ieee",)
        styled = (False, True) if case.arguments.get("demodulate", True) else (False,)
        for precision, capability, has_styles in product(precisions, capabilities, styled):
            launches = _conv_gemm_launches(case, precision, capability, has_styles)
            yield f"{case} (gemm{', next styles' if has_styles else ''})", launches, (capability,)


def _other_launches(case: Case, capabilities: Sequence[int]) -> Iterator[tuple[str, list[Launch], Sequence[int]]]:
    has_tf32 = case.op == "grouped_linear" and case.x.dtype == torch.float32
    for precision in ("ieee", "tf32") if has_tf32 else ("ieee",):
        with patch.object(experts, "_precision", lambda precision=precision: precision):
            launches = trace(partial(case.run, "triton"), case.leaves, order=1).launches
        yield str(case), launches, capabilities


def _may_take_conv_gemm(name: str, case: Case) -> bool:
    """Whether the implicit-GEMM kernel can compute a layer."""
    if name not in GEMM_SIZES or case.op != "modulated_conv2d" or case.arguments.get("up", 1) > 1:
        return False
    return case.x.shape[2] >= 8


def _conv_gemm_launches(case: Case, precision: str, capability: int, has_styles: bool) -> list[Launch]:
    """The layer and its gradients by the implicit-GEMM kernel, whose tiles depend on the GPU.

    has_styles: Whether it applies the styles of a next layer.
    """
    x, given = case.x, case.arguments
    factors = torch.empty(x.shape[0], given["weight"].shape[0], device="meta").requires_grad_()
    weight = given["weight"].to(x.dtype).detach().requires_grad_()
    epilogue = Epilogue(
        demodulation=factors if given.get("demodulate", True) else None,
        noise=given.get("noise"),
        bias=given.get("bias"),
        next_styles=torch.empty_like(factors).requires_grad_() if has_styles else None,
        activation=Activation(given.get("act", "linear"), 0.2, given.get("gain", 1.0), given.get("clamp")),
    )
    run = partial(gemm.conv_gemm, x, weight, epilogue, precision)
    leaves = [t for t in (x, weight, *epilogue.tensors) if t is not None]
    launch = partial(gemm.launch_conv_gemm, capability=(capability // 10, capability % 10))
    with patch.object(gemm, "launch_conv_gemm", launch):
        return trace(run, leaves, order=1).launches


def every_use(capabilities: Sequence[int]) -> dict[Task, Use]:
    """All configurations in half precision (fp16) and float32, one of them in bf16 too, which changes no other type.

    And an iteration as the trainer runs it, whose tensors are where they really are in memory.
    """
    plan = [*product(SIZES, ("fp16", "fp32")), (PAPER, "bf16")]
    uses = collect(chain(score_calls(), *starmap(calls_of, plan)), capabilities)
    for settings in REAL_ITERATIONS:
        for launch, capability in product(iteration_launches(settings), capabilities):
            uses.setdefault((specialise(launch), capability), Use()).add(launch, f"iteration, {' '.join(settings)}")
    return uses


def other_use(capabilities: Sequence[int]) -> dict[Task, Use]:
    """The ops that StyleGAN2 does not call; their shapes change little but what is divisible by 16."""
    return collect(other_cases(), capabilities)


def iteration_launches(settings: Sequence[str]) -> list[Launch]:
    """Launches of a first iteration, in which every phase runs, of the digits preset with some settings changed.

    On CPU tensors, so that every pointer is real: parameters are views of one flat tensor, and so are gradients. The
    kernels do not run: what they would write holds any numbers, and the steps that follow are skipped as bad. Random
    numbers are drawn by aten too, because some become indices.
    """
    job = open_job(job_config("digits", settings), device=torch.device("cpu"))
    with (
        patch.object(selection, "TRITON_DEVICES", ("cpu",)),
        _drawn_by_aten("philox_uniform"),
        _drawn_by_aten("philox_normal"),
        kernels.use("triton"),
        record_launches() as launches,
    ):
        Loop(job, **EAGER).iterate(1)
    return launches


def _drawn_by_aten(op: str) -> AbstractContextManager[None]:
    """Within it the op's launch is recorded and its result is aten's."""
    drawn = selection.implementation(op, "aten")

    def recorded_and_drawn(recorded: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*arguments: Any) -> Tensor:
            recorded(*arguments)
            return drawn(*arguments)

        return draw

    return implemented_by(op, "triton", recorded_and_drawn)


def one_per_kernel(capabilities: Sequence[int]) -> dict[Task, Use]:
    """One specialisation of every kernel that one configuration needs, in half precision where there is one."""
    others = other_cases((torch.float16, torch.float32))
    calls = sorted(
        [*score_calls(("bf16",)), *calls_of(PAPER, "fp16"), *others], key=lambda call: call[1].x.element_size()
    )
    found: dict[tuple[str, int], tuple[Task, Use]] = {}
    for task, use in collect(calls, capabilities).items():
        found.setdefault((task[0].kernel, task[1]), (task, use))
    return dict(found.values())
