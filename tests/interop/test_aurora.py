"""Aurora's files: the arguments in them build the network, and say what of them cannot."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.cli import main
from smartfast.errors import UserError
from smartfast.families.aurora.family import Aurora
from smartfast.families.saved import open_sampler
from smartfast.interop import read_gan
from smartfast.interop.aurora import options_of
from smartfast.networks.aurora import AuroraOptions, Generator

KWARGS: dict[str, Any] = {
    "model_type": "Text2ImageGenerator",
    "use_text_cond": False,
    "use_class_label": True,
    "label_dim": 3,
    "resolution": 8,
    "z_dim": 6,
    "w_dim": 8,
    "mapping_layers": 2,
    "mapping_fmaps": 7,
    "mapping_lr_mul": 0.02,
    "embedding_dim": 5,
    "num_adaptive_kernels": {"4": 2, "8": 1},
    "num_block_per_res": {"4": 1, "8": 2},
    "attn_resolutions": ["4", "8"],
    "attn_depth": {"4": 1, "8": 1},
    "num_experts": {"4": -1, "8": 2},
    "fmaps_base": 256,
    "fmaps_max": 32,
    "num_heads": 2,
    "head_dim": 8,
    "residual_gain": 0.4,
    "attn_gain": 0.3,
    "filter_kernel": [1, 2, 1],
    "conv_clamp": 2.5,
    "mtm": True,
    "use_checkpoint": True,
    "skip_connection": True,
}


def network() -> Generator:
    """What KWARGS say, by hand, with weights of which none is at its start."""
    torch.manual_seed(0)
    g = Generator(
        AuroraOptions(
            kernels=[2, 1],
            blocks=[1, 2],
            attention=[1, 1],
            experts=[0, 2],
            z_dim=6,
            w_dim=8,
            classes=3,
            mapping_layers=2,
            mapping_width=7,
            mapping_lr_multiplier=0.02,
            embedding=5,
            channel_base=256,
            channel_max=32,
            heads=2,
            head_dim=8,
            residual_gain=0.4,
            attention_gain=0.3,
            tie=True,
            scale_in=True,
            taps=(1, 2, 1),
            conv_clamp=2.5,
        )
    )
    with torch.no_grad():
        for value in (*g.parameters(), g.w_avg):
            value.add_(0.3 * torch.randn_like(value))
    return g


def written(path: Path, g: Generator, **changes: Any) -> Path:
    """A file as SMaRt's: what the original stores twice is in it twice."""
    tensors: dict[str, Tensor] = dict(g.state_dict())
    for name, value in g.state_dict().items():
        twice = name.replace(".ff.net.0.", ".ff.project_in.").replace(".ff.net.2.", ".ff.proj_out.")
        if ".net.1.0." in name:  # the attention without experts
            tensors[twice] = value
    tensors["synthesis.filter"] = torch.ones(4, 4)
    kwargs = {"generator_smooth": KWARGS | changes}
    torch.save({"models": {"generator_smooth": tensors}, "model_kwargs_init": kwargs}, path)
    return path


def test_a_file_gives_the_network_and_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = network()
    file, out = written(tmp_path / "aurora.pth", g), tmp_path / "converted"
    assert main(["convert", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"arguments of generator_smooth: {json.dumps(KWARGS)}" in printed
    assert "Aurora, 8x8x3, 3 classes" in printed
    z, c = torch.randn(3, 6), torch.eye(3)
    with torch.no_grad():
        for look in ((1.0, None), (0.5, 2)):
            assert torch.equal(open_sampler(out).module(z, c, *look), g(z, c, *look))


def test_a_run_starts_from_a_file(tmp_path: Path) -> None:
    g = network()
    weights = Aurora.foreign_weights(written(tmp_path / "aurora.pth", g))
    assert weights is not None and weights.family == "aurora"
    found = weights.networks["average"]
    assert found.keys() == g.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in g.state_dict().items())


def test_without_arguments_it_is_refused(tmp_path: Path) -> None:
    torch.save({"generator_smooth": network().state_dict()}, tmp_path / "aurora.pth")
    with pytest.raises(UserError, match="aurora generator: the file has no arguments .model_kwargs_init., without"):
        read_gan(tmp_path / "aurora.pth")


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "text": (dict(use_text_cond=True), "use_text_cond is True, expected False"),
    "unknown": (dict(new_trick=1), "an unknown argument new_trick"),
    "a type": (dict(w_dim="8"), "w_dim is 8, expected a whole number from 1 to 1000000"),
    "a switch": (dict(mtm=1), "mtm is 1, expected true or false"),
    "a gain": (dict(attn_gain=float("nan")), "attn_gain is nan, expected a number above 0"),
    "a filter": (dict(filter_kernel="[1]"), r"filter_kernel is \[1\], expected a list of numbers"),
    "a resolution": (dict(resolution=12), "resolution is 12, expected a power of two from 4 to 16384"),
    "a table": (dict(num_experts=[4]), r"num_experts is \[4\], expected numbers by resolution"),
    "a list": (dict(attn_resolutions=8), "attn_resolutions is 8, expected a list"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_arguments_that_no_network_here_has(case: str) -> None:
    changes, line = MISFITS[case]
    with pytest.raises(ValueError, match=line):
        options_of(KWARGS | changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(num_block_per_res={"4": 1, "8": 10**6}), r"blocks is \[1, 1000000\], expected no more than the"),
        (dict(num_experts={"4": -1}), "'8' is missing"),
        (dict(w_dim=10**6), r"is \(.*\), expected \(.*1000000"),
    ],
)
def test_arguments_that_are_not_of_the_tensors(
    changes: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "aurora.pth", network(), **changes)
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
    assert re.search(line, capsys.readouterr().err)
