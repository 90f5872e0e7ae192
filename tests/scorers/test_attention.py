"""Attention of the scorer: the layers compute with what was asked for, and xformers only where its own kernels run."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from smartfast.errors import UserError
from smartfast.scorers import attention
from smartfast.scorers.attention import set_attention, xformers_problem

CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.mark.parametrize(("setting", "reason"), [("auto", "auto takes PyTorch's"), ("sdpa", "perf.attention")])
def test_pytorch_attention(tiny_unet, setting, reason) -> None:
    unet = tiny_unet()
    choice = set_attention(unet, setting, **CPU)
    assert choice.name == "sdpa" and reason in str(choice)
    layers = [module for module in unet.modules() if isinstance(module, Attention)]
    assert layers and all(type(layer.processor) is AttnProcessor2_0 for layer in layers)


def test_a_network_without_attention_says_so(tiny_unet) -> None:
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    assert str(set_attention(tiny_unet(**plain), "auto", **CPU)) == "none (the network has no attention layers)"


def test_xformers_that_cannot_run_is_refused_with_the_reason(tiny_unet, monkeypatch) -> None:
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="perf.attention is xformers, expected auto or sdpa: xformers is not installed"):
        set_attention(tiny_unet(), "xformers", **CPU)


class FakeLibrary:
    """What `xformers_problem` asks of xformers: `attention` stands for its dispatcher and kernels."""

    def __init__(self, monkeypatch, *, load_error=None, kernel="fa3F", attend=lambda q, k, v: q * 2) -> None:
        fmha = SimpleNamespace(
            Inputs=lambda *qkv: qkv,
            _dispatch_fw=lambda inputs, needs_gradient: SimpleNamespace(NAME=kernel),
            memory_efficient_attention=attend,
        )
        library = SimpleNamespace(_cpp_library_load_exception=load_error)
        monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
        monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(_cpp_lib=library))
        monkeypatch.setitem(sys.modules, "xformers._cpp_lib", library)
        monkeypatch.setitem(sys.modules, "xformers.ops", SimpleNamespace(fmha=fmha))
        # Lets the probe run where there is no GPU.
        zeros = torch.zeros
        monkeypatch.setattr(attention.torch, "zeros", lambda *size, device, **rest: zeros(*size, **rest))


def refuse(q, k, v):
    raise NotImplementedError("no operator\nfor this GPU")


@pytest.mark.parametrize(
    ("library", "device", "expected"),
    [
        ({"load_error": OSError("built for\nPyTorch 2.10")}, "cuda", "kernels do not load .built for PyTorch 2.10"),
        ({}, "cpu", "no attention kernels for cpu"),
        (
            {"attend": refuse},
            "cuda",
            "does not run on cuda in torch.float16 with 32 channels .no operator for this GPU",
        ),
        ({"kernel": "fa2F@2.5.7-pt"}, "cuda", "takes PyTorch's own kernel here .fa2F@2.5.7-pt"),
    ],
)
def test_reasons(monkeypatch, library, device, expected) -> None:
    FakeLibrary(monkeypatch, **library)
    problem = xformers_problem(device, head_size=32)
    assert problem is not None and "\n" not in problem
    assert re.search(expected, problem)


def test_own_kernels_are_accepted(monkeypatch, tiny_unet) -> None:
    FakeLibrary(monkeypatch)
    assert xformers_problem("cuda") is None
    unet = tiny_unet()
    assert set_attention(unet, "xformers", device="cuda", dtype=torch.float16).name == "xformers"
    assert {type(m.processor).__name__ for m in unet.modules() if isinstance(m, Attention)} == {"XFormersAttnProcessor"}
