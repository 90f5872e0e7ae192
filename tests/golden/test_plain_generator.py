"""docs/stylegan2_generator.py against images of stylegan2-ada-pytorch, from its own state dicts, loaded strictly."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOLDEN_TOPIC = "stylegan2_generator"

SPEC = importlib.util.spec_from_file_location(
    "stylegan2_generator", Path(__file__).parents[2] / "docs" / "stylegan2_generator.py"
)
PLAIN = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PLAIN)


def options(g: dict[str, Any]) -> dict[str, Any]:
    """generator_ema.json of a generator with the reference's arguments."""
    mapping = {"num_layers": 8, "lr_multiplier": 0.01, **g["mapping_kwargs"]}
    return {
        **{name: g[name] for name in ("z_dim", "c_dim", "w_dim")},
        "resolution": g["img_resolution"],
        "channels": g["img_channels"],
        "mapping_layers": mapping["num_layers"],
        "mapping_lr_multiplier": mapping["lr_multiplier"],
        **{"use_noise": True, "conv_clamp": None, **g["synthesis_kwargs"]},
    }


def test_images(case: Any, compare: Callable[..., None]) -> None:
    if "embed_features" in case.args["G"]["mapping_kwargs"]:
        pytest.skip("widths that no run of ours has")
    t = case.inputs
    generator = PLAIN.Generator(options(case.args["G"])).to(case.dtype)
    generator.load_state_dict(t["state_dict"])
    for run in case.args["runs"]:
        if run["noise_mode"] == "const" and "truncation_cutoff" not in run:
            compare(f"img_{run['name']}", generator(t["z"], t.get("c"), run["truncation_psi"]))
    assert compare.errors
