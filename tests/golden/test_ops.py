"""The ops against the golden vectors: outputs, gradients and gradients of gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast import kernels

GOLDEN_TOPIC = ("upfirdn2d", "bias_act", "conv2d_resample", "modulated_conv2d")
NOT_OURS = ("op", "impl", "fused_modconv")
"""Arguments of the reference functions that name the function or choose an order of computation."""


def run(function: str, t: dict[str, Tensor], args: dict[str, Any]) -> Tensor:
    """The op that corresponds to a reference function."""
    f = t.get("f")
    match function:
        case "upfirdn2d" | "filter2d" | "upsample2d" | "downsample2d":
            return getattr(kernels, function)(t["x"], f, **args)
        case "bias_act":
            return kernels.bias_act(t["x"], t.get("b"), **args)
        case "conv2d_resample":
            return kernels.conv2d_resample(t["x"], t["weight"], f=f, **args)
        case "modulated_conv2d":
            return kernels.modulated_conv2d(t["x"], t["weight"], t["styles"], noise=t.get("noise"), f=f, **args)
    raise AssertionError(f"no op corresponds to {function}")


def gradients(of: Tensor, inputs: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
    """Gradient of a tensor for every input, zero for those that it does not depend on."""
    values = torch.autograd.grad(of, list(inputs.values()), allow_unused=True, **kwargs)
    return {
        name: torch.zeros_like(tensor) if value is None else value
        for (name, tensor), value in zip(inputs.items(), values, strict=True)
    }


@pytest.mark.usefixtures("implementation")
def test_op(case: Any, compare: Callable[..., None]) -> None:
    args = {name: value for name, value in case.args.items() if name not in NOT_OURS}
    t, outputs = case.inputs, case.outputs
    if case.function == "setup_filter":
        compare("f", kernels.setup_filter(t.get("f_in"), **args))
        return
    leaves = {n: x.requires_grad_() for n, x in t.items() if n != "dy" and {f"d{n}", f"ds_d{n}"} & set(outputs)}
    y = run(case.function, t, args)
    compare("y", y)
    dy = t["dy"].requires_grad_()
    first = gradients(y, leaves, grad_outputs=dy, create_graph=True)
    for name, value in first.items():
        if f"d{name}" in outputs:
            compare(f"d{name}", value)
    if "s" in outputs:
        s = (first["x"] * t["v"]).sum()
        compare("s", s)
        for name, value in gradients(s, {**leaves, "dy": dy}).items():
            if f"ds_d{name}" in outputs:
                compare(f"ds_d{name}", value)
    assert set(compare.errors) == set(outputs)


def test_topic(unsupported_topic: str) -> None:
    pytest.skip(f"topic {unsupported_topic} of the golden vectors is not supported")
