"""Folders of SmartFast's own networks as scorers: what was saved is loaded, and what is wrong is one line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smartfast.errors import UserError
from smartfast.networks.unets import ADMOptions, DhariwalOptions, EDM2Options, EDMOptions, SongOptions, build_network
from smartfast.scorers import load_scorer
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.converted import JSON_FILE, WEIGHTS_FILE, save_scorer
from smartfast.scorers.edm import EDMScorer

ADM8 = ADMOptions(
    8, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=16
)
NARROW: dict[str, Any] = dict(img_resolution=8, model_channels=32, channel_mult=(1, 2), num_blocks=1, label_dim=4)
OPTIONS: dict[str, Any] = {
    "adm": ADM8,
    "edm": EDMOptions(SongOptions(**NARROW)),
    "dhariwal": EDMOptions(DhariwalOptions(**NARROW), "iddpm"),
    "cm": EDMOptions(replace(ADM8, out_channels=3, attention_dims=2), "cm"),
    "edm2": EDM2Options(**NARROW, attn_resolutions=(4,), channels_per_head=16),
}


def written(folder: Path, kind: str, **more: Any) -> Any:
    """The network, none of whose weights is zero, that the folder holds."""
    torch.manual_seed(0)
    network = build_network(OPTIONS[kind])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    noise: dict[str, Any] = {"schedule": "cosine"} if kind == "adm" else {}
    save_scorer(folder, OPTIONS[kind], network.state_dict(), **noise, **more)
    return network


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_was_saved_is_loaded(tmp_path: Path, kind: str) -> None:
    network = written(tmp_path / "scorer", kind, source={"license": "MIT"})
    found = load_scorer(str(tmp_path / "scorer"))
    wanted: Any = ADMScorer(network, adm_schedule("cosine")) if kind == "adm" else EDMScorer(network)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([20, 300]), torch.tensor([0, 3])
    torch.testing.assert_close(found.network(x, t, labels), wanted.network(x, t, labels), rtol=0, atol=0)
    assert torch.equal(found.sigmas, wanted.sigmas) and found.schedule == wanted.schedule
    assert json.loads((tmp_path / "scorer" / JSON_FILE).read_text())["source"] == {"license": "MIT"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["scorer", JSON_FILE, WEIGHTS_FILE]


def test_half_precision_keeps_noise_levels(tmp_path: Path) -> None:
    network = written(tmp_path / "scorer", "dhariwal", dtype=torch.float16)
    saved = load_file(tmp_path / "scorer" / WEIGHTS_FILE)
    assert torch.equal(saved["u"], network.u) and saved["model.map_layer0.weight"].dtype == torch.float16
    load_scorer(str(tmp_path / "scorer"))


NETWORK = "network."
WRONG: list[tuple[str, str, Any, str]] = [
    ("adm", "network", None, "network is None, expected dict"),
    ("adm", "network", {"network": "vae"}, "network is 'vae', expected one of adm"),
    ("adm", "network", {"network": "song", "img_resolution": 8}, "network is song, expected adm, edm or edm2"),
    ("adm", "schedule", None, "schedule is None, expected linear or cosine of a network adm"),
    ("adm", "schedule", "sqrt", "schedule is 'sqrt', expected"),
    ("edm", "schedule", "linear", "schedule is linear, expected null of a network edm"),
    ("adm", "network.model_channels", "wide", "network: model_channels is 'wide', expected int"),
    ("adm", "network.model_channels", 10**9, "network: model_channels is 1000000000, expected numbers from 0 to 65536"),
    ("adm", "network.num_res_blocks", 10**4, "network: num_res_blocks is 10000, expected numbers from 0 to 100"),
    ("adm", "network.channel_mult", [1.0] * 99, "network: channel_mult is [1.0"),
    ("adm", "network.channel_mult", [float("nan")], "network: channel_mult is [nan], expected numbers"),
    ("adm", "network.channel_mult", [], "network: channel_mult is [], expected a number for every resolution"),
    ("adm", "network.model_channels", 48, "48 channels, expected a multiple of the 32 groups"),
    ("adm", "network.depth", 3, "options of adm: got an unexpected keyword argument 'depth'"),
    ("edm", "network.preconditioning", "flow", "network: preconditioning is 'flow', expected"),
    ("edm", "network.model", {"network": "song", "img_resolution": "8"}, "network.model: img_resolution is '8'"),
    ("edm", "network.model", 3, "network.model: holds '3', expected an object"),
]


@pytest.mark.parametrize("kind, field, value, message", WRONG)
def test_wrong_json_is_one_line(tmp_path: Path, kind: str, field: str, value: Any, message: str) -> None:
    written(tmp_path, kind)
    content = json.loads((tmp_path / JSON_FILE).read_text())
    part = content["network"] if field.startswith(NETWORK) else content
    part[field.removeprefix(NETWORK)] = value
    (tmp_path / JSON_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_scorer(str(tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    written(tmp_path, "adm")
    file = tmp_path / WEIGHTS_FILE
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if name != "out.0.bias"}, file)
    with pytest.raises(UserError, match="out.0.bias is missing, expected \\(32,\\) in a network of the kind adm"):
        load_scorer(str(tmp_path))
    file.write_bytes(b"no tensors")
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: .* expected the weights of {JSON_FILE}"):
        load_scorer(str(tmp_path))
    file.unlink()
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: .* expected the weights of {JSON_FILE}"):
        load_scorer(str(tmp_path))
