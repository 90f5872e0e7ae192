"""The counters against counts by hand, and against PyTorch's own counter of FLOPs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.base.family import runs_per_iteration
from bench.base.jobs import Job, job_config, open_job
from bench.count.counter import Counts, count_compiled, count_eager, generated_calls
from bench.count.phase_counts import Row, estimated_flops, total, write_report
from bench.count.tracing import Trace
from smartfast.engine.compiling import Compiler
from smartfast.kernels import philox_normal

F32 = 4
TINY = [
    "--data.resolution=16",
    "--gan.z_dim=8",
    "--gan.w_dim=8",
    "--gan.mapping_layers=1",
    "--gan.channel_base=64",
    "--gan.channel_max=8",
    "--gan.mbstd_group=4",
    "--loss.path_length_weight=2",
    "--loss.path_length_interval=4",
    "--optim.batch=8",
    "--perf.cpu_threads=1",
]


def both(function, *arguments) -> tuple[Counts, Counts]:
    compiler = Compiler(True, say=lambda line: None)
    return count_eager(function, *arguments), count_compiled(compiler("toy", function), *arguments)


def test_elementwise_chain_is_one_generated_kernel() -> None:
    x, y = torch.randn(6, 5), torch.randn(5)
    eager, compiled = both(lambda x, y: (x * 2 + y).relu(), x, y)
    assert eager == Counts(3, 3, 3, bytes=(30 + 30 + 30 + 5 + 30 + 30 + 30) * F32, flops=0)
    assert compiled == Counts(1, 0, 1, bytes=(30 + 5 + 30) * F32, flops=0)


def test_matrix_product_is_a_library_call() -> None:
    a, b = torch.randn(4, 6), torch.randn(6, 3)
    eager, compiled = both(lambda a, b: (a @ b).relu(), a, b)
    product, relu = (24 + 18 + 12) * F32, (12 + 12) * F32
    assert eager == Counts(2, 2, 2, product + relu, 2 * 4 * 6 * 3)
    assert compiled == Counts(2, 1, 2, product + relu, 2 * 4 * 6 * 3)


def test_views_are_free_and_dead_code_is_gone() -> None:
    x = torch.randn(4, 6)

    def function(x: Tensor) -> Tensor:
        x.exp()
        return x.t()[1:] + 1

    eager, compiled = both(function, x)
    assert eager == Counts(2, 2, 2, bytes=(24 + 24 + 20 + 20) * F32, flops=0)
    assert (compiled.launches, compiled.bytes) == (1, (20 + 20) * F32)


def test_two_results_of_different_shapes_are_two_loop_nests_in_one_function() -> None:
    x, y = torch.randn(4, 6), torch.randn(7)
    eager, compiled = both(lambda x, y: (x + 1, y * 2), x, y)
    assert (eager.launches, eager.calls) == (2, 2)
    assert (compiled.launches, compiled.library, compiled.calls) == (2, 0, 1)
    assert compiled.bytes == eager.bytes == 2 * (24 + 7) * F32


def gradient_penalty(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    y = torch.nn.functional.conv2d(x, w).square().sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), [w])


def test_second_derivative_is_one_graph_with_the_same_flops() -> None:
    """Forward y = w * x, backward w^T * dy; then the weight gradient of both, and dy's path back through y."""
    x, w = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(4, 3, 1, 1, requires_grad=True)
    eager, compiled = both(gradient_penalty, x, w)
    assert eager.flops == compiled.flops == 5 * 2 * (2 * 5 * 5) * 3 * 4
    assert compiled.library == 5
    assert compiled.launches < eager.launches and compiled.bytes < eager.bytes


def test_gradients_of_a_convolution_are_two_kernels_in_both() -> None:
    def function(x: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(torch.nn.functional.conv2d(x, w), [x, w], dy)

    x, w = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    dy = torch.randn(2, 4, 4, 4)
    nx, nw, ny = x.numel(), w.numel(), dy.numel()
    eager, compiled = both(function, x, w, dy)
    assert (eager.launches, eager.bytes) == (3, ((nx + nw + ny) + (ny + nw + nx) + (ny + nx + nw)) * F32)
    assert compiled.library == 2  # nobody needs the convolution itself


def test_own_ops_are_counted_by_what_they_run() -> None:
    """The compiler calls them as they are."""
    stream = torch.arange(3)
    eager, compiled = both(lambda stream: philox_normal(7, stream, 8) * 2, stream)
    assert compiled.library == eager.launches - 1 > 10
    assert (compiled.launches, compiled.bytes) == (eager.launches, eager.bytes)
    assert compiled.calls == 2


def test_fused_attention_of_the_cpu_has_flops() -> None:
    q = torch.randn(2, 3, 16, 8)
    eager = count_eager(torch.nn.functional.scaled_dot_product_attention, q, q, q)
    assert eager.flops == 2 * (2 * 3) * 16 * 16 * 8 * 2


def test_generated_calls_are_read_from_the_wrapper() -> None:
    code = """
cpp_fused_add_0 = async_compile.cpp_pybinding(['const float*'], '''...''')
    def call(self, args):
        cpp_fused_add_0(buf0, arg0_1)
        extern_kernels.mm(buf0, arg1_1, out=buf1)
        buf2 = torch.ops.aten.convolution_backward.default(buf1)
        triton_poi_fused_add_1.run(buf1, 64, stream=stream0)
        cpp_fused_add_0(buf1, arg0_1)
        return (buf1, )

runner = Runner(partitions=[])
    cpp_fused_add_0(ignored)
"""
    assert generated_calls(code) == 3


@pytest.fixture(scope="module")
def job() -> Job:
    return open_job(job_config("digits", TINY), device=torch.device("cpu"))


@pytest.mark.parametrize("phase", ["d_main", "g_path"])
def test_eager_count_is_that_of_a_real_run(job: Job, phase: str) -> None:
    training = job.training()
    compute, batch = training.phases[phase].compute, training.rounds[0]
    counted = count_eager(compute, batch)
    with Trace() as trace:
        compute(batch)
    assert (counted.launches, counted.bytes) == (len(trace.traffic), sum(t.total for t in trace.traffic))


def test_flops_of_a_real_run_are_those_of_pytorchs_counter(job: Job) -> None:
    training = job.training()
    compute, batch = training.phases["g_main"].compute, training.rounds[0]
    with FlopCounterMode(display=False) as counter:
        compute(batch)
    assert count_eager(compute, batch).flops == counter.get_total_flops()


def test_shares_follow_the_schedule(job: Job) -> None:
    frequency, r1 = job.config.smart.frequency, job.config.loss.r1_interval
    expected = {"g_main": 1 - 1 / frequency, "g_score": 1 / frequency, "g_path": 1 / 4, "d_main": 1, "d_r1": 1 / r1}
    assert runs_per_iteration(job.training(compile=False)) == expected


def test_estimates_bound_the_count(job: Job) -> None:
    """The estimate takes every backward pass in full; the first layer's input needs none."""
    training = job.training()
    estimates = estimated_flops(job, training)
    for phase in ("d_main", "g_main"):
        counted = count_eager(training.phases[phase].compute, training.rounds[0]).flops
        assert 0.7 < counted / estimates[phase] < 1.05


def test_report_averages_over_the_intervals(job: Job, tmp_path: Path) -> None:
    rows = [
        Row("d_main", 1.0, Counts(10, 10, 10, 400, 6), Counts(4, 2, 3, 100, 6), 8.0),
        Row("d_r1", 0.25, Counts(20, 20, 20, 800, 8), Counts(8, 4, 4, 400, 8), 12.0),
    ]
    assert total(rows) == Row("iteration", 1.0, Counts(15, 15, 15, 600, 8), Counts(6, 3, 4, 200, 8), 11.0)
    write_report(job, "tiny", "command", tmp_path, rows)
    written = json.loads((tmp_path / "phase_counts_tiny.json").read_text())
    assert [phase["phase"] for phase in written["phases"]] == ["d_main", "d_r1", "iteration"]
    assert "| iteration | 1 | 15 / 6 | 2.5x |" in (tmp_path / "phase_counts_tiny.md").read_text()
