"""Scorers from what files of the original projects hold."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from smartfast.config.scorer import ScorerOptions
from smartfast.errors import UserError
from smartfast.networks.unets import ADM, EDM2, ADMOptions, Denoiser, EDM2Options, EDMOptions, edm_options
from smartfast.scorers.originals import scorer_of_adm, scorer_of_edm
from smartfast.scorers.settings import Settings

ADM8 = ADMOptions(
    8, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=16
)
KNOWN = ScorerOptions(image_size=8, head_channels=16, attention_order="legacy", schedule="linear")
SONG = dict(
    model_type="SongUNet",
    img_resolution=8,
    img_channels=3,
    label_dim=4,
    model_channels=32,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
    dropout=0.1,
    use_fp16=True,
)
PIXELS = dict(img_resolution=8, img_channels=3, label_dim=4, model_channels=32, channel_mult=[1, 2], num_blocks=1)


def filled(network: Any) -> Any:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim != 1:
                parameter.normal_(std=0.1)
    return network


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 8, 8), torch.tensor([30, 400]), torch.tensor([1, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_adm(dtype) -> None:
    network = filled(ADM(ADM8).to(dtype).float())
    state = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    scorer = scorer_of_adm(state, where="my.pt", settings=Settings(KNOWN))
    x_t, t, _ = inputs()
    torch.testing.assert_close(scorer.network(x_t, t, None), network(x_t, t)[:, :3], rtol=1e-4, atol=1e-4)
    assert scorer.schedule == "linear" and scorer.num_classes == 0


def test_edm_of_consistency_models() -> None:
    options = replace(ADM8, out_channels=3, attention_dims=2, num_classes=4)
    network = filled(Denoiser(EDMOptions(options, "cm")))
    tensors = network.model.state_dict()
    scorer = scorer_of_adm(tensors, where="edm_my.pt", settings=Settings(replace(KNOWN, schedule=None)))
    x_t, t, labels = inputs()
    expected = network(x_t, scorer.sigma(t), labels)
    torch.testing.assert_close(scorer.network(x_t, t, labels), expected, rtol=1e-4, atol=1e-4)
    for where in ("models/cd_my_l2.pt", "cd_my_l2.pt", "adm:cd_my_l2.pt", "adm:models/cd_my_l2.pt"):
        with pytest.raises(UserError, match=f"{where}: a consistency model by its name, expected a diffusion model"):
            scorer_of_adm(tensors, where=where)


@pytest.mark.parametrize("class_name", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_edm(class_name) -> None:
    network = filled(Denoiser(edm_options(class_name, SONG)))
    scorer = scorer_of_edm(class_name, SONG, network.state_dict(), where="my.pkl")
    x_t, t, labels = inputs()
    expected = network(x_t, scorer.sigma(t), labels)
    torch.testing.assert_close(scorer.network(x_t, t, labels), expected, rtol=1e-4, atol=1e-4)
    assert scorer.schedule == ("iddpm" if class_name == "iDDPMPrecond" else "edm")


def test_edm2() -> None:
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in PIXELS.items()}
    network = filled(EDM2(EDM2Options(**options)))
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    network.load_state_dict(halves)
    scorer = scorer_of_edm("Precond", PIXELS, halves, where="my.pkl")
    x_t, t, labels = inputs()
    expected = network(x_t, scorer.sigma(t), labels)
    torch.testing.assert_close(scorer.network(x_t, t, labels), expected, rtol=1e-4, atol=1e-4)


def adm_tensors(**changes: Any) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return ADM(replace(ADM8, **changes)).state_dict()


def edm_tensors() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Denoiser(edm_options("EDMPrecond", SONG)).state_dict()


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: scorer_of_adm(adm_tensors(), where="my.pt"),
            "my.pt: its tensors are of no published network, expected smart.scorer_options.image_size, "
            "smart.scorer_options.head_channels, smart.scorer_options.attention_order, smart.scorer_options.schedule",
        ),
        (
            lambda: scorer_of_adm(adm_tensors(), where="my.pt", settings=Settings(replace(KNOWN, schedule=None))),
            "my.pt: its tensors are of no published network, expected smart.scorer_options.schedule",
        ),
        (
            lambda: scorer_of_adm(
                adm_tensors(), where="my.pt", settings=Settings(replace(KNOWN, schedule="edm"), "my.pt")
            ),
            "smart.scorer_options.schedule is edm, expected of my.pt linear or cosine",
        ),
        (
            lambda: scorer_of_adm(
                adm_tensors() | {"out.3.weight": torch.zeros(3)}, where="my.pt", settings=Settings(KNOWN)
            ),
            "my.pt: out.3.weight is (3,), expected none in a network of the kind adm",
        ),
        (
            lambda: scorer_of_adm(
                adm_tensors() | {"out.0.weight": torch.zeros(3)}, where="my.pt", settings=Settings(KNOWN)
            ),
            "my.pt: out.0.weight is (3,), expected (32,) in a network of the kind adm",
        ),
        (lambda: scorer_of_adm({"weight": torch.zeros(3)}, where="my.pt"), "my.pt: no tensor time_embed.0.weight"),
        (
            lambda: scorer_of_edm("Classifier", {}, {}, where="my.pkl"),
            "my.pkl: class is 'Classifier', expected one of EDMPrecond, VPPrecond",
        ),
        (
            lambda: scorer_of_edm("EDMPrecond", SONG | {"width": 1}, {}, where="my.pkl"),
            "my.pkl: arguments of SongUNet: got an unexpected keyword argument 'width'",
        ),
        (
            lambda: scorer_of_edm("EDMPrecond", SONG | {"model_channels": 64}, edm_tensors(), where="my.pkl"),
            "in a network of the kind edm",
        ),
        (
            lambda: scorer_of_edm(
                "EDMPrecond",
                SONG,
                {name: tensor for name, tensor in edm_tensors().items() if "map_label.bias" not in name},
                where="my.pkl",
            ),
            "my.pkl: model.map_label.bias is missing, expected (32,) in a network of the kind edm",
        ),
        (
            lambda: scorer_of_edm("EDMPrecond", SONG | {"num_blocks": 10**9}, edm_tensors(), where="my.pkl"),
            "my.pkl: 1000000000 blocks per resolution, expected at most 1000",
        ),
        (
            lambda: scorer_of_edm("EDMPrecond", SONG | {"num_blocks": 100}, edm_tensors(), where="my.pkl"),
            "my.pkl: the network has more tensors than the weights",
        ),
        (
            lambda: scorer_of_edm("EDMPrecond", SONG | {"img_channels": 10**9}, edm_tensors(), where="my.pkl"),
            "expected (32, 1000000000, 3, 3)",
        ),
        (
            lambda: scorer_of_edm(
                "EDMPrecond",
                SONG,
                {name: t.to(torch.int8) if "map_label.bias" in name else t for name, t in edm_tensors().items()},
                where="my.pkl",
            ),
            "my.pkl: model.map_label.bias is int8, expected floating-point numbers of 16, 32 or 64 bits",
        ),
    ],
)
def test_what_does_not_fit(make, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make()
