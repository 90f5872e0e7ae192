"""Files of rosinality's from before its generators stored their noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.imported import module_of
from smartfast.interop import read_gan

SIZES = {"b4.conv1": 4, "b8.conv0": 8, "b8.conv1": 8, "b16.conv0": 16, "b16.conv1": 16}
"""Pixels of the noise of each layer of the fixture."""


@pytest.fixture
def new_file(fixtures: Path) -> Path:
    path = fixtures / "files/rosinality/train_000000.pt"
    return path if path.is_file() else pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")


@pytest.fixture
def write_old(new_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """write_old(): the file without noise; write_old("g"): without that of one network."""

    def write(*networks: str, **changes: Any) -> Path:
        content = torch.load(new_file, weights_only=False)
        for name in networks or ("g", "g_ema"):
            content[name] = {key: value for key, value in content[name].items() if not key.startswith("noises.")}
        torch.save(content | changes, tmp_path / "550000.pt")
        return tmp_path / "550000.pt"

    return write


def test_noise_that_a_file_lacks_is_drawn(new_file: Path, write_old: Callable[..., Path]) -> None:
    gan, new = read_gan(write_old()), read_gan(new_file)
    assert gan.models.keys() == new.models.keys() == {"generator", "discriminator", "generator_ema"}
    for role, model in gan.models.items():
        module_of(FAMILIES[gan.family], role, model)
        assert model.options == new.models[role].options
        assert model.tensors.keys() == new.models[role].tensors.keys()
    drawn, stored = (read.models["generator_ema"].tensors for read in (gan, new))
    maps = {f"synthesis.{layer}.noise_const": drawn[f"synthesis.{layer}.noise_const"] for layer in SIZES}
    assert [tuple(value.shape) for value in maps.values()] == [(size, size) for size in SIZES.values()]
    assert [name for name in drawn if not torch.equal(drawn[name], stored[name])] == list(maps)
    numbers = torch.cat([value.flatten() for value in maps.values()])
    assert numbers.unique().numel() == numbers.numel()  # no map repeats another
    assert numbers.mean().abs() < 5 / numbers.numel() ** 0.5
    assert (numbers.square().mean() - 1).abs() < 5 * (2 / numbers.numel()) ** 0.5
    again = read_gan(write_old()).models["generator"].tensors
    assert all(torch.equal(value, again[name]) for name, value in maps.items())
    note = "noise maps of g and g_ema are drawn here: the file has not all of them"
    assert note in gan.notes and note not in new.notes


def test_only_what_lacks_is_drawn(new_file: Path, write_old: Callable[..., Path]) -> None:
    gan, new = read_gan(write_old("g")), read_gan(new_file)
    assert "noise maps of g are drawn here: the file has not all of them" in gan.notes
    tensors = gan.models["generator_ema"].tensors
    assert all(torch.equal(value, tensors[name]) for name, value in new.models["generator_ema"].tensors.items())


def test_noise_of_sizes_that_no_memory_holds_is_not_drawn(new_file: Path, write_old: Callable[..., Path]) -> None:
    generator = torch.load(new_file, weights_only=False)["g_ema"] | {"convs.40.noise.weight": torch.ones(1)}
    with pytest.raises(UserError, match="g_ema: rosinality generator: noise maps of more than 1024 pixels are missing"):
        read_gan(write_old(g=generator, g_ema=generator))
