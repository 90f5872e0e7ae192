"""Calls that are recorded from a training are those of the networks: held against a list that is written by hand."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.base.jobs import Job, job_config, open_job
from bench.base.shapes import FUNCTIONS, LABELS_WIDTH, Case, Config, cases
from bench.count.layers import enlarged, recorded_cases
from smartfast import kernels
from smartfast.kernels.geometry import memory_format, parse_padding, parse_pair

BATCH = 8
SETTINGS = [
    f"--optim.batch={BATCH}",
    "--gan.channel_base=128",
    "--gan.channel_max=8",
    f"--gan.z_dim={LABELS_WIDTH}",
    f"--gan.w_dim={LABELS_WIDTH}",
    "--gan.conv_clamp=256",
    "--gan.noise=true",
    "--gan.mbstd_channels=1",
    "--loss.path_length_weight=2",
    "--loss.path_length_interval=4",
    "--perf.cpu_threads=1",
]


def job(*more: str) -> Job:
    return open_job(job_config("digits", [*SETTINGS, *more]), device=torch.device("cpu"))


def content(case: Case) -> tuple[Any, ...]:
    """What a call asks for, however its arguments are written; tensors by shape, dtype and memory order."""
    signature = inspect.signature(FUNCTIONS[case.op])
    bound = signature.bind(**case.arguments)
    bound.apply_defaults()
    arguments = bound.arguments | {"impl": None}
    for name, normal in (("padding", parse_padding), ("up", parse_pair), ("down", parse_pair)):
        if name in arguments:
            arguments[name] = normal(arguments[name]) if name == "padding" else normal(arguments[name], name)
    return (case.op, *((name, _value(value)) for name, value in arguments.items()))


def _value(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return round(value, 6) if isinstance(value, float) else value
    return tuple(value.shape), value.dtype, value.requires_grad


def by_hand(dtype: torch.dtype) -> list[Case]:
    config = Config(16, 128, batch=BATCH, channel_max=8, image_channels=1)
    return list(cases(config, dtype, channels_last=True))


def of_networks(found: list[Case]) -> set[tuple[Any, ...]]:
    return {content(case) for case in found if case.op not in ("noise_forward", "denoise_distance")}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recorded_calls_are_those_of_the_list(precision: str) -> None:
    listed = by_hand(torch.float32)
    if precision == "fp16":
        half = by_hand(torch.float16)
        known = {(case.op, case.layer) for case in half}
        listed = half + [case for case in listed if (case.op, case.layer) not in known]
    wanted = of_networks([c for c in listed if c.op != "denoise_distance_and_gradient"])
    recorded = of_networks(
        recorded_cases(job("--data.labels=false", "--smart.frequency=0", f"--perf.precision={precision}"))
    )
    assert recorded == wanted


def test_layers_bear_the_names_of_the_modules_and_the_layout_of_the_memory() -> None:
    found = {(case.op, case.layer): case for case in recorded_cases(job("--perf.channels_last=true"))}
    assert {type(v) for case in found.values() for v in case.arguments.values() if isinstance(v, Tensor)} == {Tensor}
    convolution = found["modulated_conv2d", "g.synthesis.b16.conv1"]
    assert memory_format(convolution.x) == torch.channels_last and convolution.x.requires_grad
    assert found["conv2d_resample", "d.b16.fromrgb"].x.requires_grad  # in g_main and d_r1, not where D trains on reals
    assert found["denoise_distance", "g_score"].arguments["parameterization"] == "eps"
    assert ("upfirdn2d", "g.synthesis.b16.conv0 filter") in found and ("upfirdn2d", "g.synthesis.b16") not in found


def test_score_term_past_the_network_is_another_op() -> None:
    op = "denoise_distance_and_gradient"
    (one,) = (content(c) for c in recorded_cases(job("--smart.through_network=false")) if c.op == op)
    (other,) = (content(c) for c in by_hand(torch.float32) if c.op == op and c.layer == "score eps")
    different = {name for (name, a), (_, b) in zip(one[1:], other[1:], strict=True) if a != b}
    assert different <= {"purpose", "overwrite", "weight", "x", "alpha", "sigma"}


def test_recording_leaves_the_ops_as_they_were() -> None:
    before = {name: getattr(kernels, name) for name in FUNCTIONS if hasattr(kernels, name)}
    opened = job("--smart.frequency=0")
    recorded_cases(opened)
    assert all(getattr(kernels, name) is function for name, function in before.items())


def test_more_images_enlarge_what_belongs_to_them() -> None:
    found = {case.op: case for case in recorded_cases(job())}
    before = found["bias_act"]
    case = enlarged(before, 3)
    assert case.x.shape == (3 * before.x.shape[0], *before.x.shape[1:])
    assert case.arguments["b"].shape == before.arguments["b"].shape == (BATCH,)
    assert enlarged(found["noise_forward"], 2).arguments["stream"].shape == (2 * BATCH,)
