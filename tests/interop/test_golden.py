"""GANs out of files give the images and logits that their projects give."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from smartfast.interop import GanFile, read_gan
from smartfast.networks.stylegan2 import Discriminator, Generator

GOLDEN = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
TOPICS = ("file_stylegan2_ada", "file_stylegan3", "file_smart", "file_rosinality")
ROLES = {"G": "generator", "G_ema": "generator_ema"}
TOLERANCE = 2e-6


def cases() -> list[Any]:
    manifest = GOLDEN / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(f"{GOLDEN} has no manifest.json (set SMARTFAST_GOLDEN)"))]
    listed = json.loads(manifest.read_text())["cases"]
    known = [case for case in listed if case["topic"] in TOPICS and "aurora" not in case["case"]]
    return [pytest.param(case, id=case["case"]) for case in known]


def built(gan: GanFile) -> dict[str, nn.Module]:
    networks: dict[str, nn.Module] = {}
    for role, model in gan.models.items():
        networks[role] = (Discriminator if role == "discriminator" else Generator)(**model.options)
        networks[role].load_state_dict(model.tensors)
        networks[role].eval().requires_grad_(False)
    return networks


def equal(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


@pytest.mark.parametrize("case", cases())
def test_images_and_logits(case: dict[str, Any], fixtures: Path) -> None:
    path = fixtures / case["fixture"]
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    tensors = load_file(GOLDEN / case["file"])
    values = {name: tensors[entry["key"]] for name, entry in {**case["inputs"], **case["outputs"]}.items()}
    networks = built(read_gan(path))
    generator = networks["generator_ema"]
    if "logits" in values:
        assert equal(networks["discriminator"](values["img"], values.get("c")), values["logits"])
    if "image" in values:
        assert equal(generator(values["z"]), values["image"])
    if "image_psi07" in values:
        generator.mapping.w_avg.copy_(values["latent_avg"][0])
        assert equal(generator(values["z"], truncation_psi=0.7), values["image_psi07"])
    for run in case["args"].get("runs", []):
        look = run["truncation_psi"], run.get("truncation_cutoff")
        images = networks[ROLES[run["network"]]](values["z"], values.get("c"), *look)
        assert equal(images, values[f"img_{run['name']}"])
