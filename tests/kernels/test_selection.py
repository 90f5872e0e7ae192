"""Which implementation runs, and that a program can know."""

import ast
import os
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartfast.kernels import implementation_of, registered_ops, selection, use


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], Tensor]:
    """An op with both implementations."""
    monkeypatch.setitem(selection._REGISTRY, "toy", {})
    selection.register("toy", "aten", lambda x: x + 1)
    selection.register("toy", "triton", lambda x: x + 2)
    return lambda x: selection.dispatch("toy", x.device, x)


def test_every_op_has_an_aten_implementation() -> None:
    ops = [
        "bias_act",
        "conv2d",
        "denoise_distance",
        "denoise_distance_and_gradient",
        "finish",
        "grouped_linear",
        "l2_attention",
        "noise_forward",
        "philox_normal",
        "philox_uniform",
        "upfirdn2d",
        "warp2d",
    ]
    assert registered_ops() == ops
    with use("aten"):
        assert all(implementation_of(op, "cpu") == ("aten", "asked for") for op in ops)


def test_auto(toy: Callable[[Tensor], Tensor]) -> None:
    with use("auto"):
        assert implementation_of("toy", "cpu")[0] == "aten"
        assert implementation_of("toy", "cuda:0")[0] == "triton"
        del selection._REGISTRY["toy"]["triton"]
        assert implementation_of("toy", "cuda") == ("aten", "toy has no Triton implementation")


def test_the_old_name_of_aten(toy: Callable[[Tensor], Tensor]) -> None:
    """Configurations written earlier hold it."""
    with use("triton"):
        assert selection.dispatch("toy", torch.device("cpu"), torch.zeros(()), impl="reference") == 1
        with use("reference"):
            assert toy(torch.zeros(())) == 1
            assert implementation_of("toy", "cuda") == ("aten", "asked for")


def test_use_nests_and_ends(toy: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(())
    with use("triton"):
        assert toy(x) == 2
        with use("aten"):
            assert toy(x) == 1
        assert toy(x) == 2
        with pytest.raises(ZeroDivisionError), use("aten"):
            raise ZeroDivisionError
        assert toy(x) == 2


def test_compiled_code_follows_the_choice(toy: Callable[[Tensor], Tensor]) -> None:
    compiled = torch.compile(toy, fullgraph=True, backend="aot_eager")
    with use("aten"):
        assert compiled(torch.zeros(())) == 1
    with use("triton"):
        assert compiled(torch.zeros(())) == 2


def test_triton_where_there_is_none_raises(toy: Callable[[Tensor], Tensor]) -> None:
    del selection._REGISTRY["toy"]["triton"]
    with use("triton"), pytest.raises(ValueError, match="toy has no Triton implementation"):
        toy(torch.zeros(()))


def test_unknown_choice_raises() -> None:
    with pytest.raises(ValueError, match=r"use\(\): found 'cuda', expected one of auto, triton, aten"), use("cuda"):
        pass


def test_fallback_warns_once(toy: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_warned", set())
    del selection._REGISTRY["toy"]["triton"]
    with use("auto"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            selection.dispatch("toy", torch.device("cuda"), 0)
    assert [str(w.message) for w in caught] == ["toy runs as plain PyTorch on cuda: toy has no Triton implementation"]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("value", "output"),
    [("aten", "asked for"), ("reference", "asked for"), ("fast", "SMARTFAST_KERNELS: found 'fast'")],
)
def test_environment_variable(value: str, output: str) -> None:
    code = "from smartfast.kernels import implementation_of as i; print(i('bias_act', 'cpu')[1])"
    environment = os.environ | {"SMARTFAST_KERNELS": value}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert output in run.stdout + run.stderr


WITHOUT_INTERPRETER = """
import warnings
import torch
from smartfast import kernels

warnings.simplefilter("always")
stream, x = torch.tensor([1, 2]), torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4)
f = kernels.setup_filter([1, 3, 3, 1])


def call():
    return kernels.philox_normal(3, stream, 5), kernels.philox_uniform(3, stream, 5), kernels.upsample2d(x, f)


def aten():
    with kernels.use("auto"):
        return call()


with warnings.catch_warnings(record=True) as caught, CHOICE:
    results = call(), call(), torch.compile(call, fullgraph=True, backend="aot_eager")()
    print(kernels.implementation_of("philox_normal", "cpu"))
    print(kernels.implementation_of("philox_normal", "cuda"))
print(all(torch.equal(a, b) for result in results for a, b in zip(result, aten(), strict=True)))
print(sorted(str(w.message) for w in caught if "Triton" in str(w.message)))
try:
    kernels.philox_normal(3, stream, 5, impl="triton")
except ValueError as error:
    print(error)
"""


@pytest.mark.sample(2)
@pytest.mark.parametrize("by_environment", [False, True], ids=["use", "SMARTFAST_KERNELS"])
def test_triton_means_on_a_gpu(by_environment: bool) -> None:
    """CPU tensors, such as the plan of mirror flips and the report's strip, take plain PyTorch, said once an op."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["SMARTFAST_KERNELS"] = "triton" if by_environment else "auto"
    code = WITHOUT_INTERPRETER.replace("CHOICE", "torch.no_grad()" if by_environment else 'kernels.use("triton")')
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    on_cpu, on_gpu, equal, said, explicit = run.stdout.splitlines()
    assert on_cpu == "('aten', 'Triton needs a GPU, the tensors are on cpu')"
    assert on_gpu == "('triton', 'asked for')"
    assert equal == "True"
    assert [text.split()[0] for text in ast.literal_eval(said)] == ["philox_normal", "philox_uniform", "upfirdn2d"]
    assert "the tensors are on cpu, expected a GPU for triton" in explicit
