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

from smartfast.config.scorer import ScorerOptions
from smartfast.core.draws import one_hot
from smartfast.families import FAMILIES
from smartfast.families.saved import open_sampler
from smartfast.scorers.loading import FORMATS
from smartfast.scorers.settings import Settings
from smartfast.tools.convert import ConvertOptions, convert

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
DEVICE = torch.get_default_device()
GANS = ("file_stylegan2_ada", "file_stylegan3", "file_smart", "file_rosinality", "file_r3gan")
GOLDEN_TOPIC = (*GANS, "file_biggan", "file_adm", "file_edm", "file_edm2")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """converted(case): the folder of a case's file, made once for all precisions."""
    folders: dict[str, Path] = {}

    def make(case: Any) -> Path:
        name = case.entry["fixture"]
        if name not in folders:
            out = tmp_path_factory.mktemp("converted") / "folder"
            known = options_of(case.args.get("create_model", {}))
            folders[name] = convert(ConvertOptions(source=str(FIXTURES / name), out=str(out), scorer_options=known))
        return folders[name]

    return make


def test_converted(case: Any, compare: Callable[..., None], converted: Callable[[Any], Path]) -> None:
    if not (FIXTURES / case.entry["fixture"]).is_file():
        pytest.skip(f"no fixtures: {FIXTURES / case.entry['fixture']} is missing (set SMARTFAST_FIXTURES)")
    checks = {"file_biggan": check_biggan} | dict.fromkeys(GANS, check_gan)
    checks.get(case.entry["topic"], check_scorer)(converted(case), case, compare)


def options_of(flags: dict[str, Any]) -> ScorerOptions:
    """What the tensors of ADM's networks do not tell; the schedule does not matter to the network."""
    if not flags:
        return ScorerOptions()
    return ScorerOptions(
        image_size=flags["image_size"],
        head_channels=flags["num_head_channels"],
        attention_order="new" if flags["use_new_attention_order"] else "legacy",
        schedule="linear",
    )


def check_gan(folder: Path, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    average = open_sampler(folder, DEVICE).module.to(case.dtype)
    networks = {"G_ema": average}
    if (folder / "generator.json").is_file():
        networks["G"] = built(folder / "generator").to(DEVICE, case.dtype)
    if "logits" in case.outputs:
        discriminator = built(folder / "discriminator").to(DEVICE, case.dtype)
        logits = discriminator(t["real_img" if "real_img" in t else "img"], t.get("c"))
        compare("logits", logits.view(case.outputs["logits"].shape))
    if "image" in case.outputs:
        compare("image", average(t["z"], t.get("label")))
    if "wp" in case.outputs and "label" in t:
        compare("wp", average.latents(t["z"], t["label"]))
    if "img_G" in case.outputs:
        compare("img", average(t["z"], t.get("c")))
        compare("img_G", networks["G"](t["z"], t.get("c")))
    for run in case.args.get("runs", []):
        look = run["truncation_psi"], run.get("truncation_cutoff")
        compare(f"img_{run['name']}", networks[run["network"]](t["z"], t.get("c"), *look))
    assert compare.errors


def check_biggan(folder: Path, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    names = {"image": "generator_ema", "image_G": "generator", "logits": "discriminator"}
    for output, name in names.items():
        network = built(folder / name).to(DEVICE, case.dtype)
        compare(output, network(t["x" if output == "logits" else "z"], one_hot(t["y"], case.args["G"]["n_classes"])))


def built(path: Path) -> nn.Module:
    options = json.loads(path.with_suffix(".json").read_text())
    family = FAMILIES[options.pop("family")]
    network = (family.build_discriminator if path.name == "discriminator" else family.build)(**options)
    network.load_state_dict(load_file(path.with_suffix(".safetensors")))
    return network.eval()


def check_scorer(folder: Path, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    options: dict[str, Any] = dict(where=str(folder), settings=Settings(), device=DEVICE, dtype=case.dtype)
    scorer = FORMATS["converted"].load(folder, **options)
    if case.entry["topic"] == "file_adm":
        compare("output", scorer.unet(t["x"], t["t"], t.get("y")))
        compare("eps", scorer.network(t["x"], t["t"], t.get("y")))
    else:
        denoised = scorer.unet(t["x"], t["sigma"], t.get("class_labels"))
        compare("D", {f"sigma{i}": image for i, image in enumerate(denoised)})
