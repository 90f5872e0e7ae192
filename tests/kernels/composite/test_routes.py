"""Which route a modulated convolution takes, from the table or by default, and how a caller is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels import Epilogue, explain, modulated_conv2d, routes, selection, setup_filter, use
from smartfast.kernels.runtime import record_launches

pytestmark = pytest.mark.skipif(torch.get_default_device().type != "cpu", reason="expected texts name the CPU")

CPU = torch.device("cpu")
ROW = {
    "capability": "cpu",
    "dtype": "float32",
    "kernel_size": 3,
    "in_channels": 4,
    "out_channels": 5,
    "resolution": 6,
    "microseconds": {"library": 12.5, "gemm": 10.0},
}
IMAGES = torch.zeros(2, 3, 4, 4)
ROWS = torch.zeros(5, 6)
NOISE = dict(seed=1, stream=torch.zeros(2))
CALLS: dict[str, dict[str, Any]] = {
    "bias_act": dict(x=torch.zeros(2, 3)),
    "conv2d": dict(x=IMAGES, weight=torch.zeros(5, 3, 3, 3)),
    "conv2d_resample": dict(x=IMAGES, weight=torch.zeros(5, 3, 3, 3)),
    "denoise_distance": dict(prediction=IMAGES, **NOISE),
    "denoise_distance_and_gradient": dict(prediction=IMAGES, **NOISE),
    "finish": dict(z=IMAGES, epilogue=Epilogue()),
    "grouped_linear": dict(x=ROWS, weight=torch.zeros(3, 4, 6), bias=None, offsets=torch.tensor([0, 2, 2, 5])),
    "l2_attention": dict(q=IMAGES, k=IMAGES, v=IMAGES, scale=0.5),
    "modulated_conv2d": dict(x=IMAGES, weight=torch.zeros(5, 3, 3, 3), styles=torch.zeros(2, 3)),
    "noise_forward": dict(x=IMAGES, alpha=torch.zeros(2), sigma=torch.zeros(2), **NOISE),
    "philox_normal": dict(count=5, **NOISE),
    "philox_uniform": dict(count=5, **NOISE),
    "upfirdn2d": dict(x=IMAGES, f=None),
    "warp2d": dict(x=IMAGES, matrix=torch.zeros(2, 2, 3), f=torch.ones(4)),
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A table in which gemm is the faster route of one shape."""
    file = tmp_path / "routes.json"
    file.write_text(json.dumps({"rows": [ROW, ROW | {"resolution": 8, "microseconds": {"library": 3}}]}))
    monkeypatch.setattr(routes, "_table", routes.load_routes(file))


def test_the_table_that_is_shipped_is_valid() -> None:
    assert routes.measured_shapes() == len(routes.load_routes())


def test_fastest_measured_route(measured: None) -> None:
    route = routes.measured_route(CPU, torch.float32, 3, 4, 5, 6)
    assert route == ("gemm", "measured: library 12.5 us, gemm 10 us")
    assert routes.measured_route(CPU, torch.float32, 3, 4, 5, 8).name == "library"


def test_default_of_a_shape_that_was_not_measured(measured: None) -> None:
    for other in ((torch.float16, 3, 4, 5, 6), (torch.float32, 1, 4, 5, 6), (torch.float32, 3, 4, 5, 7)):
        route = routes.measured_route(CPU, *other)
        assert route == ("library", "the default: this shape was not measured on cpu")


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "microseconds": {"winograd": 1.0}},
        {**ROW, "microseconds": {}},
        {**ROW, "batch": 4},
        {name: value for name, value in ROW.items() if name != "dtype"},
    ],
    ids=["route", "no time", "unknown field", "missing field"],
)
def test_a_bad_table_names_the_row(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text(json.dumps({"rows": [row]}))
    with pytest.raises(ValueError, match=r"routes\.json: found the row"):
        routes.load_routes(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(up=2, f=setup_filter([1, 3, 3, 1])), "resampling"),
        (dict(weight=torch.zeros(5, 4, 5, 5), padding=2), "a kernel of 5x5"),
        (dict(padding=0), "padding that changes the size"),
        (dict(x=torch.zeros(2, 4, 6, 6).double()), "float64"),
        (dict(gain=-1.0), "a gain of -1"),
    ],
    ids=["up", "kernel", "padding", "dtype", "gain"],
)
def test_what_gemm_cannot_do_takes_the_library(measured: None, change: dict[str, Any], reason: str) -> None:
    arguments = dict(x=torch.zeros(2, 4, 6, 6), weight=torch.zeros(5, 4, 3, 3), padding=1) | change
    text = explain("modulated_conv2d", styles=torch.zeros(2, 4), impl="triton", **arguments)
    assert "route library" in text and f"gemm does not do {reason}" in text


@pytest.mark.parametrize("name", ["library", "gemm"])
def test_a_call_takes_the_route_that_is_explained(
    name: str, monkeypatch: pytest.MonkeyPatch, rng: torch.Generator
) -> None:
    key = tuple(ROW[field] for field in routes.FIELDS)
    monkeypatch.setattr(routes, "_table", {key: routes.Route(name, "for this test")})
    x, weight = torch.randn(2, 4, 6, 6, generator=rng), torch.randn(5, 4, 3, 3, generator=rng)
    styles, next_styles = torch.randn(2, 4, generator=rng), torch.randn(2, 5, generator=rng)
    for act, flip_weight in (("lrelu", True), ("swish", False)):
        options = dict(padding=1, act=act, clamp=0.9, flip_weight=flip_weight)
        call = dict(x=x, weight=weight, styles=styles, next_styles=next_styles, **options)
        with record_launches() as launches:
            modulated_conv2d(**call, impl="triton")
        assert ("conv_gemm_kernel" in [launch.kernel.fn.__name__ for launch in launches]) == (name == "gemm")
        text = explain("modulated_conv2d", **call, impl="triton")
        assert f"route {name}" in text and "(for this test)" in text


def test_gemm_is_one_kernel_with_the_styles_of_the_next_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "measured_route", lambda *_: routes.Route("gemm", "for this test"))
    x, weight, styles = torch.ones(2, 4, 6, 6), torch.ones(5, 4, 3, 3), torch.ones(2, 4)
    with record_launches() as launches:
        options = dict(padding=1, act="lrelu", input_is_scaled=True, next_styles=torch.ones(2, 5))
        modulated_conv2d(x, weight, styles, **options, impl="triton")
    assert [launch.kernel.fn.__name__ for launch in launches] == ["conv_gemm_kernel"]


def test_compiled_code_takes_the_measured_route(measured: None) -> None:
    torch._dynamo.reset()
    x, weight, styles = torch.ones(2, 4, 6, 6), torch.ones(5, 4, 3, 3), torch.ones(2, 4)

    def layer(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, styles, padding=1, impl="triton")

    targets = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(layer, fullgraph=True, backend=backend)(x, weight, styles)
    torch._dynamo.reset()
    assert any("conv_gemm" in target for target in targets)


def test_explain_names_implementation_and_reason_of_every_op(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(CALLS) == sorted(selection._PUBLIC)
    for implementations in selection._REGISTRY.values():
        for name in implementations:
            monkeypatch.setitem(implementations, name, None)  # nothing that an explanation could run
    for op, call in CALLS.items():
        assert explain(op, **call, impl="aten") == f"{op} on cpu: aten (asked for)"
        with use("auto"):
            assert explain(op, **call) == f"{op} on cpu: aten (auto takes plain PyTorch on cpu)"
        with use("triton"):
            assert explain(op, **call).startswith(f"{op} on cpu: triton (asked for)")


def test_explain_uses_the_dtype_of_autocast(measured: None) -> None:
    x, weight, styles = torch.zeros(2, 4, 6, 6), torch.zeros(5, 4, 3, 3), torch.zeros(2, 4)
    assert "gemm 10 us" in explain("modulated_conv2d", x, weight, styles, padding=1, impl="triton")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "not measured" in explain("modulated_conv2d", x, weight, styles, padding=1, impl="triton")


def test_explain_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="found 'conv3d', expected one of bias_act"):
        explain("conv3d", torch.zeros(2))
    with pytest.raises(TypeError, match="slope"):
        explain("bias_act", torch.zeros(2), slope=0.1)
