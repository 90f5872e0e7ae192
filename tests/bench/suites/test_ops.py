"""The ops suite lists the networks' calls, counts their least work, and gives no time to a wrong result."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.base.options import Options
from bench.base.results import Run
from bench.base.timing import relative_error
from bench.count.layers import Case
from bench.count.sizes import BEYOND_CACHE_BYTES, suite_cases, suite_config, usual_cases
from bench.suites import op_cases
from bench.suites import ops as suite_ops
from bench.suites.op_cases import Inputs, grouped_convolution, implementation, least_bytes, least_flops, modes_of
from smartfast.errors import UserError
from smartfast.kernels import routes

CPU = torch.device("cpu")
TRIAL = Options(device=CPU, quick=True, budget_sec=3600)
SMALL = (
    *("--optim.batch=2", "--gan.channel_base=128", "--gan.channel_max=8", "--gan.conv_clamp=256", "--gan.noise=true"),
    *("--gan.mbstd_group=2", "--smart.frequency=0"),
)


def small_cases(op: str) -> list[Case]:
    return [case for case in usual_cases("digits", "cpu", SMALL) if case.op == op]


def small_case(op: str, layer: str) -> Case:
    return next(case for case in small_cases(op) if case.layer == layer)


@pytest.fixture
def results(tmp_path) -> Iterator[Run]:
    with Run("ops", "test", device=CPU, quick=True, folder=tmp_path) as run:
        yield run


@pytest.mark.parametrize("case", small_cases("modulated_conv2d"), ids=lambda case: case.layer)
def test_grouped_convolution_is_the_modulated_one(case: Case) -> None:
    inputs = Inputs(case, CPU, torch.float64)
    for mode in ("forward_backward", "second_order"):
        expected = inputs.call(inputs.bind(implementation(case, "reference")), mode)()
        found = inputs.call(inputs.bind(grouped_convolution), mode)()
        pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b is not None]
        assert max(relative_error(a, b) for a, b in pairs) < 1e-10


def test_derivatives_of_a_known_function() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    dy, upstream = torch.tensor([5.0, 7.0], requires_grad=True), [torch.tensor([11.0, 13.0])]
    y, gradient, of_dy, of_x = op_cases.second_order(lambda tensors: tensors["x"] ** 3, {"x": x}, dy, upstream)
    assert y.tolist() == [8, 27] and gradient.tolist() == [5 * 12, 7 * 27]
    assert of_dy.tolist() == [11 * 12, 13 * 27] and of_x.tolist() == [11 * 5 * 12, 13 * 7 * 18]
    assert [t.tolist() for t in op_cases.forward_backward(lambda tensors: tensors["x"] ** 3, {"x": x}, dy)] == [
        [8, 27],
        [60, 189],
    ]


@pytest.mark.parametrize(
    ("op", "layer"), [("conv2d_resample", "d.b16.conv0"), ("modulated_conv2d", "g.synthesis.b16.conv1")]
)
def test_least_flops_are_those_of_the_convolution(op: str, layer: str) -> None:
    case = small_case(op, layer)
    inputs = Inputs(case, CPU)
    for mode in modes_of(case):
        with FlopCounterMode(display=False) as counter:
            inputs.call(inputs.bind(implementation(case, "reference")), mode)()
        convolutions = [n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name)]
        assert least_flops(case, mode) == sum(convolutions), mode


def test_least_flops_of_resampling_layers_by_hand() -> None:
    products = 2 * 8 * 8 * 9  # images, channels in and out, taps
    assert least_flops(small_case("modulated_conv2d", "g.synthesis.b16.conv0"), "forward") == 2 * products * 8 * 8
    assert least_flops(small_case("conv2d_resample", "d.b16.conv1"), "forward_backward") == 3 * 2 * products * 8 * 8
    assert least_flops(small_case("conv2d_resample", "d.b16.skip"), "forward") == 2 * 2 * 8 * 8 * 8 * 8


def test_least_bytes_by_hand() -> None:
    case = small_case("bias_act", "d.b16.conv0")
    inputs = Inputs(case, CPU)
    x, b = 4 * 2 * 8 * 16 * 16, 4 * 8
    expected = {"forward": 2 * x + b, "forward_backward": 4 * x + 2 * b}  # x, b, dy in; y, dx, db out
    for mode, number in expected.items():
        found = inputs.call(inputs.bind(implementation(case, "reference")), mode)()
        assert least_bytes(inputs, mode, found if isinstance(found, tuple) else [found]) == number


@pytest.mark.slow
def test_layers_come_by_size_and_then_past_the_cache() -> None:
    for name, device_type in (("digits", "cpu"), ("cifar10", "cuda")):
        found = suite_cases(name, device_type)
        layers_ = [case for case in found if "beyond" not in case.layer]
        sizes = [sum(t.nbytes for t in case.arguments.values() if isinstance(t, Tensor)) for case in layers_]
        assert sizes == sorted(sizes, reverse=True)
        beyond = found[len(layers_) :]
        assert {case.op for case in beyond} >= {"bias_act", "denoise_distance", "noise_forward", "upsample2d"}
        assert all(case.x.nbytes >= BEYOND_CACHE_BYTES[device_type] for case in beyond)


@pytest.mark.slow
def test_no_two_layers_share_a_row() -> None:
    for name, device_type in (("digits", "cpu"), ("cifar10", "cuda"), ("stylegan2_128", "cuda")):
        about = [tuple(suite_ops.describe(case, "forward").items()) for case in suite_cases(name, device_type)]
        assert len(set(about)) == len(about)


def test_any_training_has_layers_of_its_own() -> None:
    assert suite_config("stylegan2_1024", "cuda", ("--optim.batch=8",)).optim.batch == 8
    assert suite_config("cifar10", "cpu").perf.precision == "fp32"
    small = suite_cases("digits", "cpu", ("--gan.channel_max=16", "--smart.frequency=0"))
    assert {case.arguments["weight"].shape[0] for case in small if case.op == "modulated_conv2d"} == {1, 16}
    assert not [case for case in small if case.op in ("noise_forward", "denoise_distance")]
    with pytest.raises(UserError, match="--config cifar11: no such file"):
        suite_cases("cifar11", "cpu")


def test_rows_of_a_layer(results: Run) -> None:
    case = small_case("modulated_conv2d", "g.synthesis.b8.conv1")
    for mode in modes_of(case):
        rows = suite_ops.measure_case(case, mode, TRIAL, results, compiles=False)
        assert [row["provider"] for row in rows] == ["reference", "grouped convolution"]
        for row in rows:
            results.add(row)
            assert row["max_error"] < 1e-5
            assert math.isclose(row["gb_per_sec"], row["bytes"] / row["median_sec"] / 1e9)
            assert math.isclose(row["tflop_per_sec"], row["flops"] / row["median_sec"] / 1e12)


@pytest.mark.slow
def test_recorded_layers_are_measured(results: Run) -> None:
    suite_ops.run(replace(TRIAL, overrides=("--gan.channel_max=16", "--smart.frequency=0")), results)
    assert {row["layer"] for row in results.rows} > {"g.synthesis.b16.conv1"}
    assert {row["mode"] for row in results.rows} == {"forward", "forward_backward", "second_order"}
    assert all(row["median_sec"] > 0 for row in results.rows)


@pytest.mark.slow
def test_every_op_of_a_training_has_a_time_with_its_gradients(results: Run) -> None:
    """Of the score term as well, which gives the op images that a prediction of eps does not need."""
    by_op = {case.op: case for case in reversed(suite_cases("digits", "cpu"))}
    assert by_op["denoise_distance"].arguments["x"].requires_grad
    for case in by_op.values():
        rows = suite_ops.measure_case(case, "forward_backward", TRIAL, results, compiles=False)
        assert [row["provider"] for row in rows if "median_sec" not in row] == [], rows


def test_ops_without_products_stand_beside_a_copy(results: Run) -> None:
    case = small_case("bias_act", "d.b8.conv0")
    reference, copy = suite_ops.measure_case(case, "forward", TRIAL, results, compiles=False)
    assert (reference["provider"], copy["provider"]) == ("reference", "copy")
    moved = suite_ops.copy_of(copy["bytes"], CPU)()
    assert 2 * moved.nbytes == copy["bytes"] == reference["bytes"]


def test_what_raises_is_a_row_and_the_next_layer_goes_on(results: Run, monkeypatch) -> None:
    honest = suite_ops.measure_case

    def raises_once(*arguments, **options):
        monkeypatch.setattr(suite_ops, "measure_case", honest)
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(suite_ops, "measure_case", raises_once)
    monkeypatch.setattr(suite_ops, "suite_cases", lambda *_: [small_case("bias_act", "d.b8.conv0")] * 2)
    suite_ops.run(TRIAL, results)
    first, *others = results.rows
    assert first["error"] == "RuntimeError: no such kernel" and first["layer"] == "d.b8.conv0"
    assert others and all("median_sec" in row and row["cold"] is False for row in others)


def test_caches_are_emptied_on_a_gpu_and_where_asked(results: Run, monkeypatch) -> None:
    assert Options(device=torch.device("cuda")).is_cold and not TRIAL.is_cold
    monkeypatch.setattr(suite_ops, "suite_cases", lambda *_: [small_case("bias_act", "d.b8.conv0")])
    suite_ops.run(replace(TRIAL, cold=True), results)
    assert results.rows and all(row["cold"] and row["calls"] == 1 for row in results.rows)


def test_wrong_result_gets_no_time(results: Run, monkeypatch) -> None:
    def wrong(x: Tensor, *arguments: Tensor, **options) -> Tensor:
        return 1.0001 * grouped_convolution(x, *arguments, **options)

    monkeypatch.setattr(suite_ops, "grouped_convolution", wrong)
    case = small_case("modulated_conv2d", "g.synthesis.b8.torgb")
    right, wrong_row = suite_ops.measure_case(case, "forward_backward", TRIAL, results, compiles=False)
    assert right["median_sec"] > 0
    assert "median_sec" not in wrong_row and "relative error 0.0001" in wrong_row["error"]


def test_nan_gets_no_time(results: Run, monkeypatch) -> None:
    def with_one_nan(*arguments: Tensor, **options) -> Tensor:
        y = grouped_convolution(*arguments, **options)
        return torch.where(torch.arange(y.shape[3]) == 5, torch.nan, y)

    monkeypatch.setattr(suite_ops, "grouped_convolution", with_one_nan)
    case = small_case("modulated_conv2d", "g.synthesis.b8.torgb")
    rows = suite_ops.measure_case(case, "forward_backward", TRIAL, results, compiles=False)
    assert rows[1]["error"] == "wrong: not finite"
    results.add(rows[1])


def test_wrong_small_gradient_is_seen(results: Run, monkeypatch) -> None:
    def without_bias_gradient(*arguments: Tensor, bias: Tensor, **options) -> Tensor:
        return grouped_convolution(*arguments, bias=bias * 0.5 + bias.detach() * 0.5, **options)

    monkeypatch.setattr(suite_ops, "grouped_convolution", without_bias_gradient)
    case = small_case("modulated_conv2d", "g.synthesis.b8.torgb")
    rows = suite_ops.measure_case(case, "forward_backward", TRIAL, results, compiles=False)
    assert "relative error 0.5" in rows[1]["error"]


def test_spent_budget_is_said(results: Run) -> None:
    suite_ops.run(Options(device=CPU, budget_sec=0.0), results)
    assert results.rows == []
    assert "digits, second_order, from upfirdn2d g.synthesis.b16.conv0 filter on" in results.path.read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("op", ["bias_act", "conv2d_resample", "modulated_conv2d", "noise_forward", "upfirdn2d"])
def test_every_provider_on_a_gpu(results: Run, op: str) -> None:
    options = Options(device=torch.device("cuda"), quick=True)
    for case in [case for case in suite_cases("cifar10", "cuda") if case.op == op][:2]:
        for mode in modes_of(case):
            rows = suite_ops.measure_case(case, mode, options, results, compiles=True)
            assert [row["provider"] for row in rows if "error" in row] == [], rows


def test_other_routes_are_those_that_could_and_are_not_taken() -> None:
    inputs = Inputs(small_case("modulated_conv2d", "g.synthesis.b8.conv1"), CPU)

    def asks_for_a_route(tensors: dict[str, Tensor]) -> Tensor:
        routes.measured_route(CPU, torch.float32, 3, 8, 8, 8)
        return tensors["x"]

    assert suite_ops._other_routes(asks_for_a_route, inputs) == ["gemm"]  # library is the default
    assert suite_ops._other_routes(lambda tensors: tensors["x"], inputs) == []
