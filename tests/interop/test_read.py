"""Honest files: every tensor and value against what pickle and torch themselves make of the file."""

import argparse
import collections
import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smartfast.interop import Record, read_untrusted, state_dict

REAL = ("torch", "numpy", "collections", "builtins", "_codecs")
TRUSTED = [argparse.Namespace, set, torch.nn.ReLU]


class Stub:
    """An object of a class that is not there."""


class Trusting(pickle.Unpickler):
    """The standard library's unpickler with torch's and numpy's own functions, for files known to be honest."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "EasyDict":
            return dict
        if name == "_reconstruct_persistent_obj":
            return self._stub
        if module.startswith(("torch.nn.modules", "torch_utils")) or module.partition(".")[0] not in REAL:
            return type(f"{module}.{name}", (Stub,), {})
        return super().find_class(module, name)

    @staticmethod
    def _stub(meta: dict) -> Stub:
        stub = type(meta["class_name"], (Stub,), {})()
        stub.__dict__.update(meta["state"] or {})
        return stub


def trusted(path: Path, entry: dict) -> Any:
    if entry["format"].startswith("pickle"):
        return Trusting(io.BytesIO(path.read_bytes())).load()
    with torch.serialization.safe_globals(TRUSTED):
        return torch.load(path, weights_only=path.name != "state_dict.pth")  # BigGAN's names an nn.ReLU by its source


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    match expected:
        case torch.Tensor():
            assert isinstance(found, torch.Tensor), where
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype), where
            assert found.dtype == torch.bool or torch.equal(found, expected.detach()), where
        case np.ndarray():
            assert found.dtype == expected.dtype, where
            np.testing.assert_array_equal(found, expected)
        case np.generic():
            assert type(found) is type(expected.item()) and found == expected.item(), where
        case dict():
            assert type(found) is dict and list(found) == list(expected), where
            for key in expected:
                assert_same(found[key], expected[key], f"{where}.{key}")
        case list() | tuple():
            assert isinstance(found, list | tuple) and len(found) == len(expected), where
            for index, value in enumerate(expected):
                assert_same(found[index], value, f"{where}.{index}")
        case type():
            raise AssertionError(f"{where}: a class")
        case _ if hasattr(expected, "__dict__") and not isinstance(expected, set):
            assert isinstance(found, Record), where
            assert found.class_name.rpartition(".")[2] == type(expected).__name__.rpartition(".")[2], where
            assert_same(found.state, vars(expected), where)
        case _:
            assert type(found) is type(expected) and found == expected, where


def records(value: Any) -> list[Record]:
    """All below `value`."""
    match value:
        case Record():
            return [value, *records(value.state)]
        case dict():
            return [record for entry in value.values() for record in records(entry)]
        case list() | tuple():
            return [record for entry in value for record in records(entry)]
    return []


def test_every_file_of_the_manifest_equals_what_pickle_and_torch_read(loadable: dict, fixtures: Path) -> None:
    path = fixtures / loadable["file"]
    content = read_untrusted(path)
    assert_same(content, trusted(path, loadable))
    if "top_level" in loadable:
        assert list(content) == loadable["top_level"]
    if classes := loadable.get("persistent_classes"):
        embedded = {record.class_name for record in records(content) if record.source_sha256}
        assert embedded == {name.rpartition(".")[2] for name in classes}


def test_files_of_an_unsupported_architecture_are_read_and_can_be_told(refused: dict, fixtures: Path) -> None:
    if "stylegan3" not in refused["file"]:
        return  # broken or hostile: test_hostile.py
    path = fixtures / refused["file"]
    content = read_untrusted(path)
    assert_same(content, trusted(path, refused))
    generator = content["G_ema"]
    assert isinstance(generator, Record) and any(name.startswith("synthesis.L0") for name in state_dict(generator))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_module_with_its_source_embedded(protocol: int, snapshot: Callable, network: torch.nn.Module) -> None:
    content = read_untrusted(snapshot(protocol))
    assert content["training_set_kwargs"] == {"path": "a.zip", "xflip": True}
    assert list(content) == ["G", "augment_pipe", "training_set_kwargs"]
    generator = content["G"]
    assert isinstance(generator, Record)
    assert_same(state_dict(generator), dict(network.state_dict()))
    assert (generator.class_name, generator.init_args) == ("Network", ())
    assert generator.init_kwargs == {"z_dim": 8, "mapping_kwargs": {"num_layers": 2}}
    source = "raise RuntimeError('embedded source was executed')\n"
    assert generator.source_sha256 == hashlib.sha256(source.encode()).hexdigest()
    layer = generator.state["_modules"]["layers"].state["_modules"]["16x16"]
    assert layer.init_args == (1,) and layer.init_kwargs == {"lr": 0.5}
    assert (layer.state["weight_gain"], layer.state["fan_in"]) == (0.25, 7)
    np.testing.assert_array_equal(layer.state["sizes"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_arrays_and_scalars(protocol: int, dtype: str, order: str, tmp_path: Path) -> None:
    array = np.asarray([[1.5, 0, 3], [4, 5.25, 6]], dtype=dtype, order=order)
    content = {"array": array, "scalar": array[1, 1], "again": array}
    if protocol > 2:  # which has no empty bytes
        content["empty"] = array[:0]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    assert_same(read_untrusted(tmp_path / "a.pkl"), content)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    + [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool],
    ids=str,
)
def test_tensors_of_torch_save(dtype: torch.dtype, is_zip: bool, tmp_path: Path) -> None:
    flat = torch.arange(48).remainder(2 if dtype == torch.bool else 48).to(dtype)
    content = {
        "views": collections.OrderedDict(a=flat[4:10].view(2, 3), b=flat[10:34].view(2, 3, 4).transpose(0, 2)),
        "expanded": flat[3:4].expand(5),
        "scalar": flat[7],
        "empty": flat[:0].view(0, 4),
        "channels_last": torch.ones(2, 3, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "plain": [1, -2, 3.5, None, True, "text", b"bytes", (1, (2,)), {4, 5}, dtype, torch.Size([2])],
    }
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    found = read_untrusted(path)
    with torch.serialization.safe_globals(TRUSTED):
        expected = torch.load(path, weights_only=True)
    assert_same(found, expected)
    assert all(torch.equal(found["views"][name], tensor) for name, tensor in content["views"].items())


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_with_versions_and_an_optimizer(is_zip: bool, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    content = {"net": module.state_dict(), "optim": optimizer.state_dict(), "args": argparse.Namespace(size=8)}
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    found = read_untrusted(path)
    assert_same(found, {**content, "net": dict(content["net"])})
    assert found["args"].state == {"size": 8}


def test_tensors_can_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    read_untrusted(path)["a"].zero_()
    assert path.read_bytes() == before and read_untrusted(path)["a"].sum() == 3


def test_a_record_that_is_no_module_has_no_state_dict() -> None:
    with pytest.raises(ValueError, match="the record of class EDMLoss is no module"):
        state_dict(Record("EDMLoss", {"P_mean": -1.2}))


@pytest.mark.parametrize("part", ["_parameters", "_buffers", "_modules"])
def test_names_cannot_grow_without_limit(part: str) -> None:
    """A module within itself a few times over, each time under a long name."""
    module = Record("Layer", {"_parameters": {"a": torch.ones(1)}, "_buffers": {}, "_modules": {}})
    for _ in range(3):
        module = Record("Layer", {"_parameters": {}, "_buffers": {}, "_modules": {"m" * 100: module}})
    assert list(state_dict(module)) == [f"{'m' * 100}." * 3 + "a"]
    value = torch.ones(1) if part != "_modules" else module
    with pytest.raises(ValueError, match="a name of more than 1000 letters"):
        state_dict(Record("Layer", {"_parameters": {}, "_buffers": {}, "_modules": {}} | {part: {"n" * 1000: value}}))
