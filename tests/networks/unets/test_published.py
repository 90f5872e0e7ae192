"""The published networks, built without memory: parameters, names and operations are those of the files."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smartfast.networks.unets import PUBLISHED, ADMOptions, build_network

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[4] / "shared" / "fixtures"))
RELEASED = FIXTURES / "files" / "adm" / "released_names_and_shapes.json"
FILES = ("64x64_diffusion", "128x128_diffusion", "256x256_diffusion_uncond")
COUNTS = {
    "64x64_diffusion": (295.9, 219),
    "128x128_diffusion": (421.5, None),
    "256x256_diffusion": (553.8, None),
    "256x256_diffusion_uncond": (552.8, 2240),
    "lsun_bedroom": (552.8, None),
    "edm-cifar10-32x32-cond-vp": (55.7, 42),
    "edm-cifar10-32x32-uncond-vp": (55.7, 42),
    "edm-cifar10-32x32-cond-ve": (56.4, 43),
    "edm-ffhq-64x64-uncond-vp": (61.8, 84),
    "edm-ffhq-64x64-uncond-ve": (62.8, None),
    "edm-afhqv2-64x64-uncond-vp": (61.8, None),
    "edm-imagenet-64x64-cond-adm": (295.9, 219),
    "edm_imagenet64_ema": (295.9, None),
    "edm_bedroom256_ema": (526.3, None),
    "edm2-img64-xs": (124.7, 90),
    "edm2-img64-s": (280.2, 202),
    "edm2-img64-m": (497.8, 358),
    "edm2-img64-l": (777.5, 559),
    "edm2-img64-xl": (1119.3, 804),
}
"""Millions of parameters, and 10^9 operations of a forward pass (two per multiply-add) of one image."""


@cache
def state(name: str) -> dict[str, Any]:
    with torch.device("meta"):
        return build_network(PUBLISHED[name]).state_dict()


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name) -> None:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_network(PUBLISHED[name]).parameters())
    assert round(parameters / 1e6, 1) == COUNTS[name][0]


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", [name for name, (_, operations) in COUNTS.items() if operations is not None])
def test_operations(name) -> None:
    options: Any = PUBLISHED[name]
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        labels = torch.zeros(1, dtype=torch.long) if options.classes else None
        output = build_network(options)(torch.empty(1, *options.image_shape), torch.ones(1), labels)
    assert output.shape == (1, 6 if isinstance(options, ADMOptions) else 3, *options.image_shape[1:])
    # facts were rounded; a wider convolution in place of a filtered one does not pad its intermediate image
    assert counter.get_total_flops() / 1e9 == pytest.approx(COUNTS[name][1], rel=0.01)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not RELEASED.is_file(), reason=f"no fixtures: {RELEASED} is missing (set SMARTFAST_FIXTURES)")
def test_names_and_shapes_are_those_of_the_released_files(name) -> None:
    released = json.loads(RELEASED.read_text())[name]
    assert {key: list(value.shape) for key, value in state(name).items()} == released["tensors"]
    assert sum(value.numel() for value in state(name).values()) == released["parameters"]


def test_edm_has_as_many_tensors_as_its_files() -> None:
    assert len(state("edm-cifar10-32x32-cond-vp")) == 427


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_can_be_built(name) -> None:
    assert state(name)
