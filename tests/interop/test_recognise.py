"""What files hold, by the names of their tensors."""

import json
from pathlib import Path

import pytest
import torch

from smartfast.errors import UserError
from smartfast.interop import Record, find_networks, recognise
from smartfast.interop.recognise import KINDS, kind_of

STYLEGAN2 = {"G": "stylegan2 generator", "D": "stylegan2 discriminator", "G_ema": "stylegan2 generator"}
R3GAN = {"G": "r3gan generator", "D": "r3gan discriminator", "G_ema": "r3gan generator"}
ROSINALITY = {"g": "rosinality generator", "d": "rosinality discriminator", "g_ema": "rosinality generator"}
HAMMER = {"generator": "hammer stylegan2 generator", "generator_smooth": "hammer stylegan2 generator"}
EXPECTED = {
    "files/stylegan2_ada/": STYLEGAN2,
    "files/stylegan3/": STYLEGAN2,
    "files/r3gan/": R3GAN,
    "files/rosinality/": ROSINALITY,
    "files/smart/aurora": {"generator_smooth": "aurora generator"},
    "files/smart/stylegan2": HAMMER,
    "files/edm/": {"ema": "edm unet"},
    "files/edm2/": {"ema": "edm2 unet"},
    "files/adm/": {"": "adm unet"},
}


def expected_kinds(file: str) -> dict[str, str]:
    if "files/biggan/" in file:
        return {"": "biggan discriminator" if file.endswith("/D.pth") else "biggan generator"}
    (kinds,) = [kinds for start, kinds in EXPECTED.items() if file.startswith(start)]
    return kinds


def test_every_network_of_the_manifest(loadable: dict, fixtures: Path) -> None:
    path = fixtures / loadable["file"]
    if path.name == "state_dict.pth":
        with pytest.raises(UserError, match="no network of a known kind, found no networks but itr, epoch, "):
            find_networks(path)
        return
    networks = find_networks(path)
    kinds = {name: network.kind for name, network in networks.items()}
    if kinds.pop("augment_pipe", None):
        assert networks["augment_pipe"].kind == "stylegan2 augmentation"
    assert kinds == expected_kinds(loadable["file"])
    generator = networks[list(kinds)[-1]]
    if "persistent_classes" in loadable:
        assert {"img_resolution", "img_channels"} <= set(generator.kwargs) and generator.record is not None
    if "files/smart/" in loadable["file"]:
        assert {"model_type", "resolution", "z_dim"} <= set(generator.kwargs)


def test_unsupported_architectures_are_named(refused: dict, fixtures: Path) -> None:
    message = "G is a StyleGAN3 generator .config-t or config-r., which is not supported"
    with pytest.raises(UserError, match=message if "stylegan3" in refused["file"] else Path(refused["file"]).name):
        find_networks(fixtures / refused["file"])


def test_released_adm_files(fixtures: Path) -> None:
    path = fixtures / "files/adm/released_names_and_shapes.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    for model in json.loads(path.read_text()).values():
        tensors = {name: torch.empty(shape, device="meta") for name, shape in model["tensors"].items()}
        assert kind_of(tensors) == "adm unet"


def named(kind: str) -> dict[str, torch.Tensor]:
    return {pattern.replace("*", "0"): torch.empty(1, 3) for pattern in KINDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_one_name_less_and_it_is_none(kind: str) -> None:
    tensors = named(kind)
    assert kind_of(tensors) == kind
    for name in tensors:
        assert kind_of({other: tensor for other, tensor in tensors.items() if other != name}) is None


def test_variants_of_the_adm_unet() -> None:
    tensors = named("adm unet")
    assert kind_of(tensors | {"middle_block.1.qkv.weight": torch.empty(12, 4, 1)}) == "adm unet"
    assert kind_of(tensors | {"middle_block.1.qkv.weight": torch.empty(12, 4, 1, 1)}) == "consistency_models unet"
    assert kind_of(tensors | {"input_blocks.0.0.weight": torch.empty(8, 6, 3, 3)}) == "adm upsampler"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.weight": torch.ones(1), "b": torch.ones(1)}, "found it with 2 tensors such as a.weight, b"),
        ({"net": {"a.weight": torch.ones(1)}}, "found net with 1 tensors such as a.weight"),
        ({"step": 3}, "found no networks but step"),
        ({}, "found no networks but nothing"),
        ({"a\nb": torch.ones(1)}, r"found it with 1 tensors such as a\nb"),
    ],
)
def test_a_file_of_other_things(content: dict, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        find_networks(tmp_path / "a.pt")
    assert f"a.pt: no network of a known kind, {message}" in str(caught.value)


def module(**parts: dict) -> Record:
    return Record("Generator", {"_parameters": {}, "_buffers": {}, "_modules": {}} | parts)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (module(_parameters={"a": 1}), "G: a is no tensor but int"),
        (module(_buffers={"a": [torch.ones(1)]}), "G: a is no tensor but list"),
        (module(_modules={"a": module(_modules={"b": 1})}), "G: a.b is no module but int"),
        (module(_modules={"a": Record("Loss")}), "G: a of class Loss is no module"),
        (module(_parameters={"a\nb": 1}), r"G: a\nb is no tensor but int"),
    ],
)
def test_a_module_of_other_things(record: Record, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "read_untrusted", lambda path: {"G": record})
    with pytest.raises(UserError) as caught:
        find_networks(Path("a.pkl"))
    assert str(caught.value) == f"a.pkl: {message}"


def test_the_name_of_an_unsupported_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "read_untrusted", lambda path: {"G\n": named("stylegan3 generator")})
    with pytest.raises(UserError, match=r"^a.pkl: G\\n is a StyleGAN3 generator"):
        find_networks(Path("a.pkl"))
