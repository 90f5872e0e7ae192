"""The networks against plain formulas, and what they take."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.networks.unets import (
    ADMOptions,
    Denoiser,
    EDM2Options,
    EDMOptions,
    SongOptions,
    build_network,
    options_from_json,
    options_to_json,
)
from smartfast.networks.unets.denoiser import iddpm_sigmas
from smartfast.networks.unets.edm import FilteredConv
from smartfast.networks.unets.layers import sort_rows


def test_options_survive_json(example) -> None:
    options = example.network.options
    assert options_from_json(json.loads(json.dumps(options_to_json(options)))) == options


@pytest.mark.parametrize(
    "values, message",
    [
        ({"network": "unet"}, "network is 'unet', expected one of adm, song"),
        ({}, "network is None, expected one of adm"),
        ({"network": "adm"}, "options of adm: missing 1 required positional argument: 'image_size'"),
        ({"network": "edm2", "img_resolution": 64, "depth": 3}, "options of edm2: got an unexpected keyword argument"),
        ({"network": "edm", "model": {"network": "vae"}}, "network is 'vae'"),
    ],
)
def test_bad_options(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        options_from_json(values)


@pytest.mark.sample(3)
def test_classes_as_numbers_and_as_vectors(example) -> None:
    network, (images, level, labels) = example
    torch.testing.assert_close(network(images, level, F.one_hot(labels, 4).float()), network(images, level, labels))


@pytest.mark.parametrize("name", ["ddpmpp", "dhariwal", "edm2"])
def test_no_class_is_a_vector_of_zeros(narrow, name) -> None:
    network, (images, level, labels) = narrow(name)
    torch.testing.assert_close(network(images, level), network(images, level, torch.zeros(len(labels), 4)))
    assert not torch.allclose(network(images, level), network(images, level, labels))


def test_not_augmented_is_a_vector_of_zeros(narrow) -> None:
    network, inputs = narrow("ddpmpp")
    zeros, some = torch.zeros(5, 9), torch.full((5, 9), 0.3)
    torch.testing.assert_close(network(*inputs), network(*inputs, augment_labels=zeros))
    assert not torch.allclose(network(*inputs), network(*inputs, augment_labels=some))


def test_adm_without_the_class_it_needs(narrow) -> None:
    network, (images, level, _) = narrow("adm")
    with pytest.raises(ValueError, match="labels is None, expected classes below 4"):
        network(images, level)


@pytest.mark.parametrize("order", ["qkv, head, channel", "head, qkv, channel", "head, channel, qkv"])
def test_rows_of_attention(order) -> None:
    names = order.split(", ")
    sizes = {"qkv": 3, "head": 2, "channel": 4}
    rows = [
        dict(zip(names, numbers, strict=True)) for numbers in itertools.product(*(range(sizes[name]) for name in names))
    ]
    expected = sorted(range(24), key=lambda i: (rows[i]["qkv"], rows[i]["head"], rows[i]["channel"]))
    assert sort_rows(torch.arange(24), 2, order).tolist() == expected


def test_filtered_convolution_is_a_convolution_and_then_a_filter() -> None:
    layer = FilteredConv(3, 5, (1, 3, 3, 1), images=None).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    full = F.conv2d(x, layer.weight, padding=2)
    filtered = F.conv2d(full, layer.resample_filter.tile(5, 1, 1, 1), groups=5, stride=2)
    torch.testing.assert_close(layer(x), filtered + layer.bias[:, None, None])


SIGMAS = torch.tensor([0.003, 0.1, 0.5, 1.0, 20.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("edm", lambda s: (0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25) ** 0.5, (s**2 + 0.25) ** -0.5, s.log() / 4)),
        ("cm", lambda s: (0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25) ** 0.5, (s**2 + 0.25) ** -0.5, 250 * s.log())),
        ("ve", lambda s: (s**0, s, s**0, (s / 2).log())),
    ],
)
def test_preconditioning(kind, expected) -> None:
    with torch.device("meta"):
        denoiser = Denoiser(EDMOptions(SongOptions(8), kind))
    for found, wanted in zip(denoiser.coefficients(SIGMAS), expected(SIGMAS), strict=True):
        torch.testing.assert_close(found, wanted)


def test_time_of_vp_gives_its_noise_level() -> None:
    with torch.device("meta"):
        denoiser = Denoiser(EDMOptions(SongOptions(8), "vp"))
    c_skip, c_out, c_in, c_noise = denoiser.coefficients(SIGMAS)
    t = c_noise / 999
    torch.testing.assert_close((19.9 / 2 * t**2 + 0.1 * t).expm1().sqrt(), SIGMAS)
    torch.testing.assert_close(c_in, (1 + SIGMAS**2) ** -0.5)
    assert (c_skip == 1).all() and torch.equal(c_out, -SIGMAS)


def test_noise_levels_of_iddpm(narrow) -> None:
    """Range of NVlabs/edm's iDDPMPrecond; entries are its timesteps from 999 down, and 0 at the end."""
    sigmas = iddpm_sigmas()
    assert len(sigmas) == 1001 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[0] == pytest.approx(20291, rel=1e-3) and sigmas[-2] == pytest.approx(0.0064, rel=1e-2)
    network, _ = narrow("iddpm")
    steps = torch.tensor([0, 1, 400, 999])
    nearly = sigmas[999 - steps] * 1.0001
    torch.testing.assert_close(network.coefficients(nearly)[3], steps.float())


def edm2_spec(state: dict[str, Tensor], x: Tensor, sigma: Tensor, labels: Tensor, options: EDM2Options) -> Tensor:
    """EDM2's denoiser as its paper writes it, from weights as they are stored; two levels, one block each."""

    def unit(v: Tensor, dims: Any) -> Tensor:
        return v / (1e-4 + v.square().mean(dims, keepdim=True).sqrt())

    def weight(name: str) -> Tensor:
        w = state[f"{name}.weight"]
        return unit(w, tuple(range(1, w.ndim))) / w[0].numel() ** 0.5

    def conv(name: str, v: Tensor) -> Tensor:
        w = weight(name)
        return F.conv2d(v, w, padding=w.shape[-1] // 2)

    def silu(v: Tensor) -> Tensor:
        return F.silu(v) / 0.596

    def mix(a: Tensor, b: Tensor, t: float) -> Tensor:
        return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5

    def attention(name: str, v: Tensor) -> Tensor:
        n, c, h, w = v.shape
        qkv = conv(f"{name}.attn_qkv", v).reshape(n, c // options.channels_per_head, -1, 3, h * w)
        q, k, value = unit(qkv, 2).unbind(3)
        weights = torch.einsum("nhcq,nhck->nhqk", q, k / options.channels_per_head**0.5).softmax(3)
        return conv(f"{name}.attn_proj", torch.einsum("nhqk,nhck->nhcq", weights, value).reshape(n, c, h, w))

    def block(name: str, v: Tensor, *, encoder: bool) -> Tensor:
        skip = (lambda u: conv(f"{name}.conv_skip", u)) if f"{name}.conv_skip.weight" in state else (lambda u: u)
        if name.endswith("_down"):
            v = F.avg_pool2d(v, 2)
        if name.endswith("_up"):
            v = v.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if encoder:
            v = unit(skip(v), 1)
        gain = 1 + state[f"{name}.emb_gain"] * (embedding @ weight(f"{name}.emb_linear").t())
        y = conv(f"{name}.conv_res1", silu(conv(f"{name}.conv_res0", silu(v)) * gain[:, :, None, None]))
        v = mix(v if encoder else skip(v), y, 0.3)
        if f"{name}.attn_qkv.weight" in state:
            v = mix(v, attention(name, v), 0.3)
        return v.clamp(-256, 256)

    def join(a: Tensor, b: Tensor) -> Tensor:
        total = (2 * (a.shape[1] + b.shape[1])) ** 0.5
        return torch.cat([a * total / a.shape[1] ** 0.5 / 2, b * total / b.shape[1] ** 0.5 / 2], dim=1)

    s = sigma[:, None, None, None]
    waves = (
        sigma.log()[:, None] / 4 * state["unet.emb_fourier.freqs"] + state["unet.emb_fourier.phases"]
    ).cos() * 2**0.5
    of_class = F.one_hot(labels, options.label_dim).to(x.dtype) * options.label_dim**0.5 @ weight("unet.emb_label").t()
    embedding = silu(mix(waves @ weight("unet.emb_noise").t(), of_class, 0.5))
    h = x / (s**2 + 0.25).sqrt()
    h = conv("unet.enc.16x16_conv", torch.cat([h, torch.ones_like(h[:, :1])], dim=1))
    skips = [h]
    for name in ("16x16_block0", "8x8_down", "8x8_block0"):
        h = block(f"unet.enc.{name}", h, encoder=True)
        skips.append(h)
    for name in ("8x8_in0", "8x8_in1", "8x8_block0", "8x8_block1", "16x16_up", "16x16_block0", "16x16_block1"):
        h = block(f"unet.dec.{name}", join(h, skips.pop()) if "block" in name else h, encoder=False)
    output = conv("unet.out_conv", h) * state["unet.out_gain"]
    return 0.25 / (s**2 + 0.25) * x + 0.5 * s / (s**2 + 0.25).sqrt() * output


def test_edm2_is_its_formula(narrow) -> None:
    network, (images, sigma, labels) = narrow("edm2", torch.float64)
    found = network(images, sigma, labels)
    wanted = edm2_spec(network.state_dict(), images, sigma, labels, network.options)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(output.square().sum(), images)[0] for output in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["adm", "edm2"])
def test_weights_in_half_precision_load_as_they_are(narrow, name) -> None:
    network, inputs = narrow(name)
    halves = {key: value.half() for key, value in network.state_dict().items()}
    other = build_network(network.options)
    other.load_state_dict(halves)
    assert all(value.dtype == torch.float32 for value in other.state_dict().values())
    assert torch.allclose(other(*inputs), network(*inputs), atol=0.1)


def test_options_of_a_half_width_level() -> None:
    """guided-diffusion's 512 pixels start at half the width."""
    options = ADMOptions(16, model_channels=64, channel_mult=(0.5, 1), num_res_blocks=1, attention_resolutions=())
    network = build_network(replace(options, num_head_channels=32))
    assert network.input_blocks[0][0].weight.shape == (32, 3, 3, 3)
