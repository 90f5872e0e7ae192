"""Weight files of other projects: those of the folder SMARTFAST_FIXTURES, and small ones written here."""

import json
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
SOURCE = "raise RuntimeError('embedded source was executed')\n"


def _listed() -> list[dict]:
    manifest = FOLDER / "manifest.json"
    return json.loads(manifest.read_text())["files"] if manifest.is_file() else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`loadable` and `refused` go through the weight files of the manifest."""
    for argument, expected in {"loadable": ("load",), "refused": ("refuse",)}.items():
        if argument in metafunc.fixturenames:
            entries = [entry for entry in _listed() if entry["expect"] in expected]
            skip = pytest.param(None, marks=pytest.mark.skip(f"{FOLDER} has no manifest.json (set SMARTFAST_FIXTURES)"))
            ids = [entry["file"].removeprefix("files/") for entry in entries] or ["none"]
            metafunc.parametrize(argument, entries or [skip], ids=ids)


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Files are read to the CPU, whatever device the tests of networks run on."""
    with torch.device("cpu"):
        yield


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FOLDER


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise RuntimeError("a test loads what it wrote with pickle")


class Persistent:
    """Pickles as torch_utils.persistence does."""

    def __reduce__(self) -> tuple:
        meta = {"type": "class", "version": 6, "module_src": SOURCE}
        meta |= {"class_name": type(self).__name__, "state": dict(self.__dict__)}
        return _reconstruct_persistent_obj, (meta,)


class EasyDict(dict):
    pass


class Layer(Persistent, torch.nn.Module):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = args, EasyDict(kwargs)
        self.weight = torch.nn.Parameter(torch.randn(3, 2).t())
        self.register_parameter("bias", None)
        self.register_buffer("resample_filter", torch.tensor([1.0, 3.0, 3.0, 1.0]))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.weight_gain = np.float64(0.25)
        self.fan_in = np.int64(7)
        self.sizes = np.arange(6, dtype=np.int32).reshape(2, 3)


class Network(Persistent, torch.nn.Module):
    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = (), EasyDict(kwargs)
        self.layers = torch.nn.ModuleDict({"16x16": Layer(1, lr=0.5), "small": Layer()})
        self.tied = self.layers["16x16"]
        self.step = torch.nn.Parameter(torch.tensor(2.5), requires_grad=False)
        self.nothing = None
        self.layers["small"].half()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A module that pickles with the names that NVIDIA's projects write."""
    for module, member in {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}.items():
        fake = types.ModuleType(module)
        setattr(fake, member.__name__, member)
        monkeypatch.setattr(member, "__module__", module)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setitem(sys.modules, module.partition(".")[0], types.ModuleType(module.partition(".")[0]))
    torch.manual_seed(0)
    return Network(z_dim=8, mapping_kwargs=EasyDict(num_layers=2))


@pytest.fixture
def snapshot(network: Network, tmp_path: Path) -> Callable[[int], Path]:
    """snapshot(protocol): a file as NVIDIA's training loops write it."""

    def write(protocol: int) -> Path:
        path = tmp_path / f"network-snapshot-{protocol}.pkl"
        content = {"G": network, "augment_pipe": None, "training_set_kwargs": EasyDict(path="a.zip", xflip=True)}
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write
