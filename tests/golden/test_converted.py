"""Files of other projects after `smartfast convert`, as the commands load them, against the golden vectors."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from smartfast.families.saved import open_sampler
from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.scorers.loading import FORMATS
from smartfast.tools.convert import ConvertOptions, convert

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
DEVICE = torch.get_default_device()
GANS = ("file_stylegan2_ada", "file_stylegan3", "file_smart", "file_rosinality")
GOLDEN_TOPIC = (*GANS, "file_edm", "file_edm2")


def test_converted(case: Any, compare: Callable[..., None], tmp_path: Path) -> None:
    source = FIXTURES / case.entry["fixture"]
    if not source.is_file():
        pytest.skip(f"no fixtures: {source} is missing (set SMARTFAST_FIXTURES)")
    if "aurora" in source.name:
        pytest.skip("no family of Aurora yet")
    folder = convert(ConvertOptions(source=str(source), out=str(tmp_path / "converted")))
    if case.entry["topic"] in GANS:
        check_gan(folder, case, compare)
    else:
        check_scorer(folder, case, compare)


def check_gan(folder: Path, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    average = open_sampler(folder, DEVICE).module.to(case.dtype)
    networks = {"G_ema": average, "G": built(Generator, folder / "generator").to(DEVICE, case.dtype)}
    if "logits" in case.outputs:
        discriminator = built(Discriminator, folder / "discriminator").to(DEVICE, case.dtype)
        compare("logits", discriminator(t["img"], t.get("c")))
    if "image" in case.outputs:
        compare("image", average(t["z"]))
    for run in case.args.get("runs", []):
        look = run["truncation_psi"], run.get("truncation_cutoff")
        compare(f"img_{run['name']}", networks[run["network"]](t["z"], t.get("c"), *look))
    assert compare.errors


def built(kind: type[nn.Module], path: Path) -> nn.Module:
    options = json.loads(path.with_suffix(".json").read_text())
    network = kind(**{name: value for name, value in options.items() if name != "family"})
    network.load_state_dict(load_file(path.with_suffix(".safetensors")))
    return network.eval()


def check_scorer(folder: Path, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    denoise = FORMATS["converted"].load(folder, where=str(folder), device=DEVICE, dtype=case.dtype).unet
    compare("D", {f"sigma{i}": image for i, image in enumerate(denoise(t["x"], t["sigma"], t.get("class_labels")))})
