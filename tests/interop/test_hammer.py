"""Files as Hammer's own runner saves them: settings in easy dictionaries, labels that are embedded and not mapped."""

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.families import FAMILIES
from smartfast.families.imported import module_of
from smartfast.interop import read_gan, read_untrusted
from smartfast.networks.stylegan2 import Discriminator, Generator

SIZES: dict[str, Any] = dict(resolution=8, channels=2, channel_base=64, channel_max=12)


class EasyDict(dict):
    """Pickles as easydict's does, whose items are its attributes, too."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__()
        for name, value in items.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        kept = EasyDict(value) if type(value) is dict else value
        super().__setattr__(name, kept)
        self[name] = kept


@pytest.fixture
def save_easily(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """save_easily(content, is_zip): a file of torch.save whose EasyDicts are of a module that cannot be imported."""

    def save(content: dict[str, Any], is_zip: bool = True) -> Path:
        module = types.ModuleType("easydict")
        module.EasyDict = EasyDict  # type: ignore[attr-defined]
        path = tmp_path / "checkpoint-easy.pth"
        with monkeypatch.context() as patch:
            patch.setattr(EasyDict, "__module__", "easydict")
            patch.setitem(sys.modules, "easydict", module)
            torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        monkeypatch.setitem(sys.modules, "easydict", None)
        return path

    return save


@pytest.fixture(params=["smart/stylegan2_uncond", "smart/aurora_class10", "written here"])
def plain_file(request: pytest.FixtureRequest, fixtures: Path, write_hammer: Callable[..., Path]) -> Path:
    """A file whose settings are plain dictionaries."""
    if request.param == "written here":
        generator = Generator(**SIZES, z_dim=4, w_dim=6, c_dim=3, mapping_layers=2)
        return write_hammer({"generator_smooth": generator.state_dict()}, label_dim=3, filter_kernel=(1, 3, 3, 1))
    path = fixtures / f"files/{request.param}.pth"
    return path if path.is_file() else pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")


def dictionaries(value: object) -> Iterator[dict]:
    """All below `value`."""
    if isinstance(value, dict):
        yield value
        for entry in value.values():
            yield from dictionaries(entry)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_settings_in_easy_dictionaries(plain_file: Path, is_zip: bool, save_easily: Callable[..., Path]) -> None:
    content = torch.load(plain_file, weights_only=True)
    arguments = {name: EasyDict(one) for name, one in content["model_kwargs_init"].items()}
    nested = {"lr": {"lr_type": "FIXED", "more": {}}, "opt": {"betas": (0, 0.99)}, "8": None}
    settings = {"model_kwargs_init": arguments, "opt_config": EasyDict(nested), "model_kwargs_val": EasyDict({})}
    path = save_easily(content | settings, is_zip)
    found, plain = read_gan(path), read_gan(plain_file)
    assert found.models.keys() == plain.models.keys() and found.notes == plain.notes
    for role, model in plain.models.items():
        assert found.models[role].options == model.options
        assert all(torch.equal(found.models[role].tensors[name], model.tensors[name]) for name in model.tensors)
    read = read_untrusted(path)
    assert read["opt_config"] == nested and read["model_kwargs_val"] == {}
    assert read["model_kwargs_init"] == content["model_kwargs_init"]
    assert all(type(one) is dict for name in settings for one in dictionaries(read[name]))


@pytest.mark.parametrize("embedding_dim", [12, 7], ids=["as wide as the features", "of another width"])
def test_a_discriminator_whose_embedding_is_not_mapped(embedding_dim: int, write_hammer: Callable[..., Path]) -> None:
    made = Discriminator(**SIZES, c_dim=3, cmap_dim=embedding_dim, mapping_layers=0)
    torch.nn.init.normal_(made.mapping.embed.bias)
    path = write_hammer({"discriminator": made.state_dict()}, label_dim=3, embedding_dim=embedding_dim)
    gan = read_gan(path)
    found = module_of(FAMILIES[gan.family], "discriminator", gan.models["discriminator"])
    projected: list[torch.Tensor] = []
    found.get_submodule("b4.out").register_forward_hook(lambda module, args, output: projected.append(output))
    labels = torch.eye(3)[[0, 2, 1, 2]]
    with torch.no_grad():
        logits = found(torch.randn(4, 2, 8, 8), labels)
    stored = torch.load(path, weights_only=True)["models"]["discriminator"]
    assert "mapping0.weight" not in stored
    embedding = labels @ stored["embedding.weight"].t() / 3**0.5 + stored["embedding.bias"]
    embedding = embedding / (embedding.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    expected = (projected[0] * embedding).sum(dim=1, keepdim=True) / embedding_dim**0.5
    torch.testing.assert_close(logits, expected)


def test_an_embedding_that_does_not_fit_the_projection(write_hammer: Callable[..., Path]) -> None:
    generator = Generator(**SIZES, z_dim=4, w_dim=6, c_dim=3, mapping_layers=2).state_dict()
    discriminator = Discriminator(**SIZES, c_dim=3, mapping_layers=0).state_dict()
    discriminator |= {"mapping.embed.weight": torch.zeros(5, 3), "mapping.embed.bias": torch.zeros(5)}
    gan = read_gan(write_hammer({"generator": generator, "discriminator": discriminator}))
    assert list(gan.models) == ["generator"]
    assert gan.left_out["discriminator"].endswith(
        "an embedding of 5 numbers and no layers behind it, expected 12 numbers"
    )
