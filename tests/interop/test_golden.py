"""GANs out of files give the images and logits that their projects give."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from smartfast.families import FAMILIES
from smartfast.families.imported import module_of
from smartfast.interop import read_gan

GOLDEN = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
TOPICS = ("file_stylegan2_ada", "file_stylegan3", "file_smart", "file_rosinality", "file_r3gan")
ROLES = {"G": "generator", "G_ema": "generator_ema"}
TOLERANCE = 2e-6


def cases() -> list[Any]:
    manifest = GOLDEN / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(f"{GOLDEN} has no manifest.json (set SMARTFAST_GOLDEN)"))]
    listed = json.loads(manifest.read_text())["cases"]
    known = [case for case in listed if case["topic"] in TOPICS]
    return [pytest.param(case, id=case["case"]) for case in known]


def equal(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("case", cases())
def test_images_and_logits(case: dict[str, Any], fixtures: Path) -> None:
    path = fixtures / case["fixture"]
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    tensors = load_file(GOLDEN / case["file"])
    values = {name: tensors[entry["key"]] for name, entry in {**case["inputs"], **case["outputs"]}.items()}
    gan = read_gan(path)
    networks = {role: module_of(FAMILIES[gan.family], role, model).eval() for role, model in gan.models.items()}
    generator = networks["generator_ema"]
    if "logits" in values:
        images = values["real_img" if "real_img" in values else "img"]
        logits = networks["discriminator"](images, values.get("c"))
        assert equal(logits.view(values["logits"].shape), values["logits"])
    if "image" in values:
        assert equal(generator(values["z"], values.get("label")), values["image"])
    if "image_psi07" in values:
        generator.mapping.w_avg.copy_(values["latent_avg"][0])
        assert equal(generator(values["z"], truncation_psi=0.7), values["image_psi07"])
    if "img_G" in values:
        assert equal(generator(values["z"], values.get("c")), values["img"])
        assert equal(networks["generator"](values["z"], values.get("c")), values["img_G"])
    for run in case["args"].get("runs", []):
        look = run["truncation_psi"], run.get("truncation_cutoff")
        images = networks[ROLES[run["network"]]](values["z"], values.get("c"), *look)
        assert equal(images, values[f"img_{run['name']}"])
