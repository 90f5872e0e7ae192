"""Generators out of files give the images that their projects give."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smartfast.interop import find_networks
from smartfast.networks.stylegan2 import Generator

GOLDEN = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
TOPICS = ("file_stylegan2_ada", "file_stylegan3")


def cases() -> list[Any]:
    manifest = GOLDEN / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(f"{GOLDEN} has no manifest.json (set SMARTFAST_GOLDEN)"))]
    listed = json.loads(manifest.read_text())["cases"]
    return [pytest.param(case, id=case["case"]) for case in listed if case["topic"] in TOPICS]


def options(args: dict[str, Any]) -> dict[str, Any]:
    """Of our generator, from the constructor's arguments in stylegan2-ada-pytorch or stylegan3."""
    mapping, synthesis = args["mapping_kwargs"], args | args.get("synthesis_kwargs", {})
    renamed = {"num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier", "activation": "mapping_act"}
    made = {new: mapping[old] for old, new in renamed.items() if old in mapping}
    made |= {name: mapping[name] for name in ("embed_features", "layer_features") if name in mapping}
    same = ("architecture", "channel_base", "channel_max", "resample_filter", "conv_clamp", "use_noise")
    made |= {name: synthesis[name] for name in same if name in synthesis}
    made |= {"act": synthesis["activation"]} if "activation" in synthesis else {}
    made |= {name: args[name] for name in ("z_dim", "c_dim", "w_dim")}
    return made | {"resolution": args["img_resolution"], "channels": args["img_channels"]}


@pytest.mark.parametrize("case", cases())
def test_images(case: dict[str, Any], fixtures: Path) -> None:
    path = fixtures / case["fixture"]
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    tensors = load_file(GOLDEN / case["file"])
    values = {name: tensors[entry["key"]] for name, entry in {**case["inputs"], **case["outputs"]}.items()}
    networks = find_networks(path)
    for run in case["args"]["runs"]:
        generator = Generator(**options(case["args"]["G"]))
        generator.load_state_dict(networks[run["network"]].tensors)
        with torch.no_grad():
            images = generator.eval()(
                values["z"], values.get("c"), run["truncation_psi"], run.get("truncation_cutoff"), noise="const"
            )
        expected = values[f"img_{run['name']}"]
        assert (images - expected).abs().max() <= 1e-4 * expected.abs().max()
