"""Files of ADM's, EDM's and EDM2's networks, as scorers, against the golden vectors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.config.scorer import ScorerOptions
from smartfast.interop.recognise import find_networks
from smartfast.scorers.originals import scorer_of_adm, scorer_of_edm
from smartfast.scorers.settings import Settings

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
DEVICE = torch.get_default_device()
GOLDEN_TOPIC = ("file_adm", "file_edm", "file_edm2")


def test_file(case: Any, compare: Callable[..., None]) -> None:
    path = FIXTURES / case.entry["fixture"]
    if not path.is_file():
        pytest.skip(f"no fixtures: {path} is missing (set SMARTFAST_FIXTURES)")
    (network,) = find_networks(path).values()
    options: dict[str, Any] = dict(where=str(path), device=DEVICE, dtype=case.dtype)
    if case.entry["topic"] == "file_adm":
        check_adm(
            scorer_of_adm(network.tensors, settings=settings_of(case.args["create_model"]), **options), case, compare
        )
    else:
        check_edm(scorer_of_edm(network.record.class_name, network.kwargs, network.tensors, **options), case, compare)
    assert set(compare.errors) >= {name for name, entry in case.entry["outputs"].items() if "key" in entry}


def settings_of(flags: dict[str, Any]) -> Settings:
    """What the tensors do not tell; the schedule does not matter to the network."""
    return Settings(
        ScorerOptions(
            image_size=flags["image_size"],
            head_channels=flags["num_head_channels"],
            attention_order="new" if flags["use_new_attention_order"] else "legacy",
            schedule="linear",
        )
    )


def check_adm(scorer: Any, case: Any, compare: Callable[..., None]) -> None:
    t = case.inputs
    compare("output", scorer.unet(t["x"], t["t"], t.get("y")))
    compare("eps", scorer.network(t["x"], t["t"], t.get("y")))


def check_edm(scorer: Any, case: Any, compare: Callable[..., None]) -> None:
    t, denoise = case.inputs, scorer.unet

    def by_sample(images: Tensor) -> dict[str, Tensor]:
        return {f"sigma{i}": image for i, image in enumerate(images)}

    compare("D", by_sample(denoise(t["x"], t["sigma"], t.get("class_labels"))))
    if "D_nolabel" in case.outputs:
        compare("D_nolabel", by_sample(denoise(t["x"], t["sigma"])))
    if "D_augment" in case.outputs:
        compare("D_augment", by_sample(denoise(t["x"], t["sigma"], t["class_labels"], t["augment_labels"])))
    if "logvar" in case.outputs:
        compare("logvar", denoise.logvar(t["sigma"]))
