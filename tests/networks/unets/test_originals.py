"""Options from the arguments and tensors that files of the original projects hold."""

import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from smartfast.networks.unets import (
    ADM,
    ADM_NETWORKS,
    PUBLISHED,
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    SongOptions,
    adm_options,
    adm_schedule_name,
    build_network,
    edm2_options,
    edm_options,
)

SMALL = ADMOptions(
    16,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(8,),
    num_head_channels=16,
)
KNOWN = dict(image_size=16, num_head_channels=16, use_new_attention_order=False)
VARIANTS = {
    "plain": SMALL,
    "one level": replace(SMALL, channel_mult=(1,), attention_resolutions=(16,)),
    "no attention": replace(SMALL, attention_resolutions=()),
    "attention everywhere": replace(SMALL, attention_resolutions=(16, 8)),
    "classes": replace(SMALL, num_classes=7),
    "convolutions resample": replace(SMALL, resblock_updown=False),
    "three levels": replace(SMALL, channel_mult=(1, 1, 2), num_res_blocks=2, attention_resolutions=(8, 4)),
    "added embedding": replace(SMALL, use_scale_shift_norm=False, out_channels=3),
    "grey": replace(SMALL, in_channels=1, out_channels=2),
    "2-D attention": replace(SMALL, attention_dims=2),
    "half width": replace(SMALL, model_channels=64, channel_mult=(0.5, 1)),
}


@cache
def shapes(options: ADMOptions) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in ADM(options).state_dict().items()}


@pytest.mark.parametrize("name", [*ADM_NETWORKS, "edm_imagenet64_ema", "edm_bedroom256_ema"])
def test_a_published_network_is_known_by_its_tensors(name) -> None:
    published = PUBLISHED[name]
    options = published.model if isinstance(published, EDMOptions) else published
    assert adm_options(shapes(options)) == options


@pytest.mark.parametrize("name", VARIANTS)
def test_any_network_is_read_off_its_tensors(name) -> None:
    assert adm_options(shapes(VARIANTS[name]), **KNOWN) == VARIANTS[name]


def test_what_is_known_counts_more_than_the_published_network() -> None:
    options = ADM_NETWORKS["256x256_diffusion"]
    assert adm_options(shapes(options), use_new_attention_order=True) == replace(options, use_new_attention_order=True)
    by_heads = adm_options(shapes(options), num_heads=2)
    assert (by_heads.num_heads, by_heads.num_head_channels) == (2, None)


def test_noise_schedules() -> None:
    """guided-diffusion's README: cosine for the network of 64 pixels, linear for all others."""
    found = {name: adm_schedule_name(options) for name, options in ADM_NETWORKS.items()}
    assert found == dict.fromkeys(ADM_NETWORKS, "linear") | {"64x64_diffusion": "cosine"}
    other_order = replace(ADM_NETWORKS["64x64_diffusion"], use_new_attention_order=False)
    assert adm_schedule_name(other_order) == "cosine" and adm_schedule_name(SMALL) is None


def without(options: ADMOptions, *prefixes: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes(options).items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({}, "no tensor time_embed.0.weight, expected a UNet of guided-diffusion"),
        (without(SMALL, "output_blocks"), "no tensor output_blocks.0.0.in_layers.2.weight"),  # as a classifier
        (shapes(replace(SMALL, in_channels=6)), "the network reads 6 channels, expected at most 3"),
        (
            shapes(SMALL),
            "image_size, num_heads, num_head_channels, use_new_attention_order: not in the tensors of a network",
        ),
    ],
)
def test_other_tensors(tensors, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        adm_options(tensors)


def test_arguments_of_edm() -> None:
    images = dict(img_resolution=32, img_channels=3, label_dim=10)
    song = dict(model_type="SongUNet", model_channels=128, channel_mult=[2, 2, 2], augment_dim=9)
    training = dict(dropout=0.13, use_fp16=True)
    expected = PUBLISHED["edm-cifar10-32x32-cond-vp"]
    assert edm_options("EDMPrecond", images | song | training) == expected
    assert edm_options("VPPrecond", images | song) == replace(expected, preconditioning="vp")
    assert edm_options("EDMPrecond", images | song | {"sigma_data": 1.0}) == replace(expected, sigma_data=1.0)
    # the defaults of the original's classes
    assert isinstance(edm_options("iDDPMPrecond", images).model, DhariwalOptions)
    assert isinstance(edm_options("VEPrecond", images).model, SongOptions)


def test_arguments_of_edm2() -> None:
    arguments = dict(model_channels=128, img_resolution=64, img_channels=3, label_dim=1000, use_fp16=True, dropout=0.1)
    assert edm2_options(arguments) == PUBLISHED["edm2-img64-xs"]
    assert edm2_options(arguments | {"channel_mult": [1, 2]}) == EDM2Options(
        64, label_dim=1000, model_channels=128, channel_mult=(1, 2)
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: edm_options("Precond", {}), "class is 'Precond', expected one of EDMPrecond, VPPrecond"),
        (lambda: edm_options("EDMPrecond", {"model_type": "UViT"}), "model_type is 'UViT', expected one of SongUNet"),
        (
            lambda: edm_options("VPPrecond", {"img_resolution": 8, "beta_d": 10}),
            "arguments of SongUNet: got an unexpected keyword argument 'beta_d'",
        ),
        (lambda: edm2_options({}), "arguments of Precond: missing 1 required positional argument: 'img_resolution'"),
        (
            lambda: edm2_options({"img_resolution": 64, "resample_filter": [1, 3, 3, 1]}),
            "arguments of Precond: got an unexpected keyword argument 'resample_filter'",
        ),
    ],
)
def test_arguments_that_do_not_fit(make, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("name", ["edm-cifar10-32x32-cond-vp", "edm2-img64-xs"])
def test_networks_of_published_options_take_their_own_state(name) -> None:
    with torch.device("meta"):
        network, other = build_network(PUBLISHED[name]), build_network(PUBLISHED[name])
    missing, unexpected = other.load_state_dict(network.state_dict(), strict=False, assign=True)
    assert not missing and not unexpected and len(network.state_dict()) > 100
