"""A sampler from what a run leaves, whatever family its files name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.saved import open_sampler


def copy_of(run: Path, target: Path) -> Path:
    """The weights of a run, with options that may be changed."""
    (folder,) = (run / "checkpoints").iterdir()
    for name in ("generator_ema.safetensors", "generator_ema.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target / "generator_ema.safetensors"


def test_run_checkpoint_and_file_are_the_same_generator(make_checkpoint: Callable[..., Path]) -> None:
    run = make_checkpoint()
    (folder,) = (run / "checkpoints").iterdir()
    samples = [open_sampler(p)(torch.arange(2))[0] for p in (run, folder, folder / "generator_ema.safetensors")]
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0][0], samples[0][1])


@pytest.mark.parametrize("change", [{"z_dim": 5}, {"unknown": 1}, {"family": "stylegan9"}])
def test_options_that_do_not_fit_are_said_to_be_so(
    change: dict[str, object], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    options = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(options | change))
    with pytest.raises(UserError, match="generator_ema.safetensors: expected a generator with generator_ema.json"):
        open_sampler(weights)


@pytest.mark.parametrize("content", [b"", b"null", b"3", b'"text"', b"[1, 2]", b"{}", b"\xff\xfe", b'{"z_dim": null}'])
def test_options_that_are_none_are_one_line(
    content: bytes, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    weights.with_suffix(".json").write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*generator_ema.safetensors: expected a generator with [^\n]*$"):
        open_sampler(weights)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(
    value: float, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    tensors = load_file(weights)
    tensors["mapping.fc0.weight"][0, 0] = value
    save_file(tensors, weights)
    with pytest.raises(UserError, match="mapping.fc0.weight has numbers that are not finite"):
        open_sampler(weights)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"z_dim": 10**9}, r"mapping.fc0.weight is \(8, 8\), expected \(8, 1000000000\)"),
        ({"channel_base": 2**40, "channel_max": 2**30}, "a tensor is too large for any memory"),
        ({"mapping_layers": 10**9}, "the network has more tensors than the weights"),
    ],
)
def test_options_of_an_enormous_network_take_no_memory(
    change: dict[str, object], line: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    options = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(options | change))
    with pytest.raises(UserError, match=f"generator_ema.safetensors: expected a generator with [^\n]*{line}"):
        open_sampler(weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool], ids=str)
def test_weights_that_are_no_floating_point_numbers_are_refused(
    dtype: torch.dtype, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    tensors = load_file(weights)
    tensors["mapping.fc0.weight"] = tensors["mapping.fc0.weight"].to(dtype)
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"mapping.fc0.weight is \w+, expected floating-point numbers of 16, 32 or 64"):
        open_sampler(weights)


def test_a_family_that_is_not_registered_is_named(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    weights = copy_of(make_checkpoint(), tmp_path)
    options = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps(options | {"family": "stylegan9"}))
    with pytest.raises(UserError, match=f"family is stylegan9, expected one of {', '.join(FAMILIES)}$"):
        open_sampler(weights)


def test_nothing_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a run folder, a checkpoint folder or a generator .safetensors"):
        open_sampler(tmp_path)


def test_files_without_a_family_are_stylegan2s(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """As commit 8615a17 wrote them."""
    weights = copy_of(make_checkpoint(), tmp_path)
    assert "family" not in json.loads(weights.with_suffix(".json").read_text())
    assert type(open_sampler(weights)) is type(FAMILIES["stylegan2"].sampler(open_sampler(weights).module))
