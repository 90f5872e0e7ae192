"""Counted work equals PyTorch's counter and counts by hand; floors equal arithmetic by hand."""

from collections import Counter
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.base.devices import DEVICES, find_device
from bench.base.family import modules
from bench.base.jobs import Job, job_config, open_job
from bench.base.limits import Limits
from bench.count.counter import STEP, count_work, training_work
from bench.count.roofline import CountedJob, PhaseFloor, Roofline, all_reduce_sec, layer_floors, phase_floor
from bench.count.tracing import Operation
from smartfast.errors import UserError
from smartfast.networks.stylegan2.layers import ConvLayer, StyledConv
from smartfast.run.training import Training

F32, F16 = 4, 2
PHASES = ("g_score", "g_path", "d_main", "d_r1")
TINY = ("--gan.channel_base=64", "--gan.channel_max=16", "--optim.batch=8", "--gan.mbstd_group=4")
LIMITS = Limits(copy_bytes_per_sec=100.0, flops_per_sec={"fp32": 10.0, "tf32": 20.0, "fp16": 40.0}, launch_sec=0.0)


def work_of(
    layer: str, is_backward: bool, name: str, precision: str, flops: int, bytes_moved: int, is_filter: bool = False
) -> Operation:
    return Operation(name, bytes_moved, 0, flops, precision, is_filter, layer, is_backward)


def forward_and_backward(module: nn.Module, *inputs: torch.Tensor) -> None:
    module(*inputs).square().sum().backward()


def counted(module: nn.Module, *inputs: torch.Tensor) -> list[tuple[bool, str, str, int, int]]:
    work = count_work(partial(forward_and_backward, module), *inputs, modules={"net": module})
    return [(w.is_backward, w.name, w.precision, w.flops, w.total) for w in work]


def test_convolution_by_hand() -> None:
    layer, x = ConvLayer(8, 16, 3, act="lrelu"), torch.randn(2, 8, 6, 6, requires_grad=True)
    flops = 2 * (2 * 16 * 6 * 6) * (8 * 9)
    x_bytes, y_bytes, w_bytes = 2 * 8 * 36 * F32, 2 * 16 * 36 * F32, 16 * 8 * 9 * F32
    moved = x_bytes + y_bytes + w_bytes  # of each pass: two of them are read, the third is written
    assert counted(layer, x) == [
        (False, "convolution", "fp32", flops, moved),
        (True, "convolution_backward", "fp32", flops, moved),
        (True, "convolution_backward", "fp32", flops, moved),
    ]


def test_convolution_in_groups_by_hand() -> None:
    """Each gradient multiplies as often as the convolution does, where PyTorch's counter says four times."""
    layer, x = nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False), torch.randn(2, 8, 6, 6, requires_grad=True)
    flops = 2 * (2 * 16 * 6 * 6) * (2 * 9)
    assert [flops for _, _, _, flops, _ in counted(layer, x)] == [flops] * 3


def test_upsampling_layer_in_half_precision_by_hand() -> None:
    layer = StyledConv(8, 16, 4, 12, up=2, use_noise=False)
    x, styles = torch.randn(2, 8, 6, 6, dtype=torch.float16), torch.randn(2, 8)
    work = count_work(lambda x, styles: layer(x, styles, None), x, styles, modules={"net": layer})
    assert {w.layer for w in work} == {"net"} and not any(w.is_backward for w in work)
    moved = (2 * 8 * 36 + 8 * 16 * 9 + 2 * 16 * 13 * 13) * F16
    convolution = work_of("net", False, "convolution", "fp16", 2 * (2 * 8 * 6 * 6) * (16 * 9), moved)
    demodulation = work_of("net", False, "mm", "fp32", 2 * 2 * 8 * 16, (2 * 8 + 8 * 16 + 2 * 16) * F32)
    filter_ = work_of("net", False, "convolution", "fp32", 2 * (2 * 16 * 12 * 12) * (4 * 4), 0, True)
    in_total = [w._replace(read=w.total, written=0) for w in work]
    assert Counter(in_total) == Counter([convolution, demodulation, filter_])


def test_attention_by_hand() -> None:
    layer = Attention(query_dim=32, heads=4, dim_head=8, processor=AttnProcessor2_0()).requires_grad_(False)
    tokens = torch.randn(2, 10, 32)
    work = count_work(layer, tokens, modules={"net": layer})
    linear_flops, linear_bytes = 2 * (2 * 10) * 32 * 32, (2 * (2 * 10) * 32 + 32 * 32) * F32
    linear = {w.layer: (w.flops, w.total - (32 * F32 if w.layer == "net.to_out.0" else 0)) for w in work}
    attention = linear.pop("net")
    assert linear == dict.fromkeys(["net.to_q", "net.to_k", "net.to_v", "net.to_out.0"], (linear_flops, linear_bytes))
    assert attention[0] == 2 * (2 * 2 * 10 * 10 * 32)  # queries with keys, probabilities with values
    assert attention[1] >= 4 * (2 * 10 * 32) * F32  # and what the backward pass needs


@pytest.mark.parametrize(
    "layer, inputs",
    [
        (ConvLayer(8, 16, 3, down=2, act="lrelu"), [torch.randn(2, 8, 6, 6, requires_grad=True)]),
        (StyledConv(8, 16, 4, 12, up=2, use_noise=False), [torch.randn(2, 8, 6, 6), torch.randn(2, 8), None]),
        (nn.Linear(24, 40), [torch.randn(5, 24, requires_grad=True)]),
    ],
    ids=["downsampling", "upsampling", "linear"],
)
def test_equals_the_counter_of_pytorch(layer: nn.Module, inputs: list) -> None:
    with FlopCounterMode(display=False) as counter:
        forward_and_backward(layer, *inputs)
    assert sum(flops for *_, flops, _ in counted(layer, *inputs)) == counter.get_total_flops()


@pytest.fixture(scope="module")
def job() -> Job:
    options = ["--perf.cpu_threads=1", "--loss.path_length_weight=2", "--loss.path_length_interval=4", *TINY]
    return open_job(job_config("digits", options), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def training(job: Job) -> Training:
    return job.training(compile=False)


@pytest.fixture(scope="module")
def work(job: Job, training: Training) -> dict[str, list[Operation]]:
    return training_work(training, PHASES, modules=modules(training, job.scorer))


class NoModules(nullcontext):
    """In place of FlopCounterMode's own hooks on modules, which fail where a gradient is taken inside a function."""

    parents = {"Global"}


@pytest.mark.parametrize("phase", PHASES)
def test_phases_equal_the_counter_of_pytorch(training: Training, work: dict[str, list[Operation]], phase: str) -> None:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        training.phases[phase].compute(training.rounds[0])
    assert sum(w.flops for w in work[phase]) == counter.get_total_flops()


def test_every_pass_belongs_to_its_layer(work: dict[str, list[Operation]]) -> None:
    def flops(phase: str, layer: str) -> int:
        return sum(w.flops for w in work[phase] if w.layer == layer and not w.is_filter)

    forward = 2 * (8 * 8 * 8 * 8) * (8 * 9)  # of the discriminator's 3x3 layer at 8 pixels, for a batch of 8
    for layer in ("d.b8.conv0", "d.b8.conv1"):
        scale = 1 if layer == "d.b8.conv0" else 0.5  # a quarter of the pixels, twice the channels
        assert flops("g_score", layer) == 2 * forward * scale  # forward, input gradient
        assert flops("d_main", layer) == 2 * 3 * forward * scale  # fakes and reals; weight gradient as well
        assert flops("d_r1", layer) == 6 * forward * scale  # the same again for the gradient's own two passes
    outside = {name: sum(w.flops for w in phase if not w.layer) for name, phase in work.items()}
    spread = 2 * (8 * 8) * (16 * 16)  # products of 8 images with one another: statistics of the fakes, and of the reals
    assert outside == {name: 2 * spread * (name == "d_main") for name in work}


def test_steps_read_and_write_every_parameter(work: dict[str, list[Operation]], training: Training) -> None:
    parameters = sum(p.numel() for p in training.networks["d"].module.parameters())
    assert [w.total for w in work["d_main"] if w.name == STEP] == [7 * parameters * F32]
    parameters = sum(p.numel() for p in training.networks["g"].module.parameters())
    assert [w.total for w in work["ema"]] == [3 * parameters * F32]


def test_counting_changes_nothing(training: Training, work: dict[str, list[Operation]]) -> None:
    assert not any(network.buffer.any() for network in training.networks.values())
    assert not any(module._forward_hooks for module in training.networks["d"].module.modules())


def test_layer_takes_the_longest_of_matrix_filter_and_memory() -> None:
    work = [
        work_of("a", False, "convolution", "fp32", flops=40, bytes_moved=100),
        work_of("a", False, "convolution", "fp32", 30, 0, is_filter=True),
        work_of("a", True, "convolution", "fp16", flops=40, bytes_moved=500),
    ]
    exact, rounded = (layer_floors(work, LIMITS, tf32=tf32) for tf32 in (False, True))
    assert [(f.floor_sec, f.limited_by, f.flops) for f in exact] == [(4.0, "compute", 40), (5.0, "memory", 40)]
    assert rounded[0].floor_sec == 3.0  # 2 s for the convolution in tf32, 3 s for the filter in fp32
    floor = phase_floor("p", 0.5, work, LIMITS, tf32=False)
    assert (floor.floor_sec, floor.limited_by, floor.flops, floor.bytes) == (9.0, "memory", 80, 600)


def test_kimg_and_overhead_by_hand() -> None:
    def floor(phase: str, runs: float, sec: float) -> PhaseFloor:
        return PhaseFloor(phase, runs, flops=10, bytes=0, floor_sec=sec, limited_by="compute", communication_sec=0.5)

    phases = [floor("g_main", 0.75, 1.5), floor("g_score", 0.25, 5.5), floor("d_main", 1.0, 1.5)]
    roofline = Roofline({phase.phase: phase for phase in phases}, 100, {"g_score": "g_main"})
    assert roofline.sec_per_kimg("g_main") == 0.75 * 2 * 10
    assert roofline.sec_per_kimg() == (0.75 * 2 + 0.25 * 6 + 2) * 10
    assert roofline.flops_per_kimg == 20 * 10
    assert roofline.score_overhead(8) == pytest.approx((6 - 2) / 8 / (2 + 2))


def test_without_score_every_iteration_is_g_main() -> None:
    work = {name: [work_of("", False, "mm", "fp32", 10, 0)] for name in ("g_main", "g_score")}
    runs, gradient_bytes = {"g_main": 0.75, "g_score": 0.25}, {"g_main": 8, "g_score": 8}
    counted = CountedJob(work, runs, gradient_bytes, images=10, tf32=False, replaces={"g_score": "g_main"})
    assert counted.without_score().roofline(LIMITS).score_overhead(4) is None
    assert counted.without_score().roofline(LIMITS).sec_per_kimg() == 100
    assert counted.roofline(LIMITS).score_overhead(4) == 0


def test_gradients_travel_twice_round_the_ring() -> None:
    assert all_reduce_sec(1000, 1, 100) == 0
    assert all_reduce_sec(1000, 4, 100) == pytest.approx(15)
    work = {"d_main": [work_of("", False, "mm", "fp32", 10, 0)]}
    counted = CountedJob(work, {"d_main": 1.0}, {"d_main": 1000}, images=10, tf32=False)
    roofline = counted.roofline(LIMITS, gpus=4, link_bytes_per_sec=100)
    assert roofline.sec_per_kimg() == pytest.approx((1 + 15) * 1000 / 40)
    with pytest.raises(UserError, match="gpus is 4"):
        counted.roofline(LIMITS, gpus=4)


def test_devices() -> None:
    assert find_device("h100").name == "H100 SXM"
    for device in DEVICES.values():
        rates = device.limits.flops_per_sec
        assert rates["fp32"] <= rates["tf32"] < rates["fp16"] == rates["bf16"]
        assert device.link_bytes_per_sec < device.limits.copy_bytes_per_sec < 1e13
    with pytest.raises(UserError, match="expected one of A100"):
        find_device("h")
