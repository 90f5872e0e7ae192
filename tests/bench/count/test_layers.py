"""Calls that are recorded from a training are those of its networks: held against names and shapes by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.base.jobs import Job, job_config, open_job
from bench.count.layers import FUNCTIONS, Case, contiguous, enlarged, every_target, recorded_cases
from smartfast import kernels
from smartfast.kernels.geometry import memory_format

BATCH = 8
SETTINGS = [
    f"--optim.batch={BATCH}",
    "--gan.channel_base=128",
    "--gan.channel_max=8",
    "--gan.conv_clamp=256",
    "--gan.noise=true",
    "--gan.mbstd_channels=1",
    "--loss.path_length_weight=2",
    "--loss.path_length_interval=4",
    "--perf.cpu_threads=1",
]
G, D = "g.synthesis", "d"


def job(*more: str) -> Job:
    return open_job(job_config("digits", [*SETTINGS, *more]), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Case]:
    return by_name(recorded_cases(job()))


def by_name(cases: list[Case]) -> dict[tuple[str, str], Case]:
    return {(case.op, case.layer): case for case in cases}


def content(case: Case) -> dict[str, Any]:
    """A call's arguments, tensors by shape and by whether a gradient is taken for them."""
    return {
        name: (*value.shape, value.requires_grad) if isinstance(value, Tensor) else value
        for name, value in case.arguments.items()
    }


def test_every_layer_is_there_once(found: dict[tuple[str, str], Case]) -> None:
    """A skip generator and a residual discriminator at 16 pixels, whose layers of 4 to 16 pixels all have 8 maps."""
    up = [f"{G}.b{r}" for r in (8, 16)]
    down = [f"{D}.b{r}" for r in (16, 8)]
    wanted = {
        "modulated_conv2d": {f"{b}.{layer}" for b in up for layer in ("conv0", "conv1", "torgb")}
        | {f"{G}.b4.conv1", f"{G}.b4.torgb"},
        "upsample2d": set(up),
        "conv2d_resample": {f"{b}.{layer}" for b in down for layer in ("conv0", "conv1", "skip")}
        | {f"{D}.b16.fromrgb", f"{D}.b4.conv"},
        "upfirdn2d": {f"{b}.conv0 filter" for b in up}
        | {f"{b}.{layer} filter" for b in down for layer in ("conv1", "skip")},
        "noise_forward": {"g_score"},
        "denoise_distance": {"g_score"},
    }
    for op, layers in wanted.items():
        assert {layer for name, layer in found if name == op} == layers, op


def test_arguments_of_a_generator_layer(found: dict[tuple[str, str], Case]) -> None:
    about = content(found["modulated_conv2d", f"{G}.b16.conv0"])
    assert (
        about
        | {
            "x": (BATCH, 8, 8, 8, True),
            "weight": (8, 8, 3, 3, True),
            "styles": (BATCH, 8, True),
            "noise": (BATCH, 1, 16, 16, True),
            "bias": (8, True),
            "next_styles": (BATCH, 8, True),
        }
        == about
    )
    assert (about["up"], about["padding"], about["act"], about["clamp"]) == (2, 1, "lrelu", 256)
    assert about["gain"] == pytest.approx(2**0.5)
    filtered = content(found["upfirdn2d", f"{G}.b16.conv0 filter"])
    assert filtered["x"] == (BATCH, 8, 17, 17, True)  # what a transposed convolution of 8 pixels leaves
    assert (filtered["up"], filtered["down"], filtered["padding"], filtered["gain"]) == ((1, 1), (1, 1), (1,) * 4, 4)


def test_arguments_of_a_discriminator_layer(found: dict[tuple[str, str], Case]) -> None:
    about = content(found["conv2d_resample", f"{D}.b16.conv1"])
    assert about["x"] == (BATCH, 8, 16, 16, True) and about["weight"] == (8, 8, 3, 3, True) and about["down"] == 2
    about = content(found["bias_act", f"{D}.b16.conv1"])
    assert about["x"] == (BATCH, 8, 8, 8, True) and about["clamp"] == pytest.approx(256 / 2**0.5)
    assert content(found["conv2d_resample", f"{D}.b4.conv"])["x"] == (BATCH, 9, 4, 4, True)  # with the deviation


def test_half_precision_is_that_of_a_gpu() -> None:
    half = by_name(recorded_cases(job("--smart.frequency=0", "--perf.precision=fp16")))
    dtypes = {layer: case.x.dtype for (op, layer), case in half.items() if op == "modulated_conv2d"}
    assert {r: dtypes[f"{G}.b{r}.conv1"] for r in (4, 8, 16)} == {
        4: torch.float32,
        8: torch.float16,
        16: torch.float16,
    }


def test_layers_bear_the_layout_of_the_memory(found: dict[tuple[str, str], Case]) -> None:
    assert {type(v) for case in found.values() for v in case.arguments.values() if isinstance(v, Tensor)} == {Tensor}
    convolution = found["modulated_conv2d", f"{G}.b16.conv1"]
    assert memory_format(convolution.x) == torch.channels_last
    other = contiguous(convolution)
    assert content(other) == content(convolution) and memory_format(other.x) == torch.contiguous_format


def test_gradients_are_taken_where_any_phase_takes_them(found: dict[tuple[str, str], Case]) -> None:
    assert found[
        "conv2d_resample", f"{D}.b16.fromrgb"
    ].x.requires_grad  # in g_main and d_r1, not where D trains on reals


def test_score_term_past_the_network_is_another_op_without_gradients(found: dict[tuple[str, str], Case]) -> None:
    case = found["denoise_distance", "g_score"]
    assert case.arguments["parameterization"] == "eps" and case.x.requires_grad
    past = by_name(recorded_cases(job("--smart.through_network=false")))
    one = past["denoise_distance_and_gradient", "g_score"]
    assert ("denoise_distance", "g_score") not in past and one.leaves == []
    kinds = [(other.op, other.arguments["parameterization"], len(other.leaves)) for other in every_target(case)]
    op, gradient_op = "denoise_distance", "denoise_distance_and_gradient"
    assert kinds == [pair for kind in ("eps", "x0", "v") for pair in ((op, kind, 2), (gradient_op, kind, 0))]
    assert [other.op for other in every_target(one)] == [gradient_op] * 3


def test_recording_leaves_the_ops_as_they_were() -> None:
    before = {name: getattr(kernels, name) for name in FUNCTIONS}
    filters = {op: kernels.selection.implementation(op, "aten") for op in ("upfirdn2d", "upfirdn2d_finish")}
    recorded_cases(job("--smart.frequency=0"))
    assert all(getattr(kernels, name) is function for name, function in before.items())
    assert all(kernels.selection.implementation(op, "aten") is function for op, function in filters.items())


def test_more_images_enlarge_what_belongs_to_them(found: dict[tuple[str, str], Case]) -> None:
    before = found["bias_act", f"{D}.b16.conv1"]
    case = enlarged(before, 3)
    assert case.x.shape == (3 * before.x.shape[0], *before.x.shape[1:])
    assert case.arguments["b"].shape == before.arguments["b"].shape == (BATCH,)
    assert enlarged(found["noise_forward", "g_score"], 2).arguments["stream"].shape == (2 * BATCH,)
