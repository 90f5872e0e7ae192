"""GANs of other projects as arguments and tensors of ours: what files state, and what they leave out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.families.imported import module_of
from smartfast.families.r3gan.family import R3Gan
from smartfast.interop import Model, Record, models, read_gan
from smartfast.networks.stylegan2 import Discriminator, Generator

SIZES: dict[str, Any] = dict(resolution=8, channels=2, channel_base=64, channel_max=12)
GENERATOR: dict[str, Any] = SIZES | dict(z_dim=4, w_dim=6)


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_discriminator_of_hammer(architecture: str, c_dim: int, write_hammer: Callable[..., Path]) -> None:
    options: dict[str, Any] = SIZES | dict(architecture=architecture, c_dim=c_dim, mbstd_group=2, conv_clamp=0.5)
    network = Discriminator(**options, mapping_layers=2, mapping_lr_multiplier=0.1, resample_filter=(1, 2, 1))
    path = write_hammer({"discriminator": network.state_dict()}, conv_clamp=0.5, mbstd_groups=2, label_dim=c_dim)
    check_same(network, read_gan(path).models["discriminator"], torch.randn(4, 2, 8, 8), torch.eye(4, c_dim))


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_generator_of_hammer(architecture: str, c_dim: int, write_hammer: Callable[..., Path]) -> None:
    options: dict[str, Any] = GENERATOR | dict(architecture=architecture, c_dim=c_dim, mapping_layers=2)
    network = Generator(**options, embed_features=5, mapping_lr_multiplier=0.2, resample_filter=(1, 2, 1))
    path = write_hammer({"generator_smooth": network.state_dict()}, mapping_lr_mul=0.2, label_dim=c_dim)
    check_same(network, read_gan(path).models["generator_ema"], torch.randn(4, 4), torch.eye(4, c_dim))


def check_same(network: torch.nn.Module, model: Model, inputs: Tensor, c: Tensor) -> None:
    again = type(network)(**model.options)
    again.load_state_dict(model.tensors)
    with torch.no_grad():
        labels = c if c.shape[1] else None
        assert torch.equal(network(inputs, labels), again(inputs, labels))


R3GANS: dict[str, dict[str, Any]] = {
    "one stage": dict(widths=[4], cardinalities=[2], blocks=[2]),
    "widths, groups and blocks that differ": dict(widths=[6, 6, 4], cardinalities=[3, 2, 4], blocks=[1, 3, 2]),
    "another filter": dict(widths=[4, 2], cardinalities=[1, 2], blocks=[1, 1], expansion=3, taps=[1, 3, 2]),
}


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", R3GANS)
def test_shapes_tell_all_of_r3gan(shape: str, classes: int, tmp_path: Path) -> None:
    options: dict[str, Any] = R3GANS[shape] | dict(channels=4, classes=classes, embedding=5 if classes else 0)
    networks = {"G_ema": R3Gan.build(7, **options), "D": R3Gan.build_discriminator(**options)}
    for network in networks.values():  # the last convolutions begin at 0
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    torch.save({name: network.state_dict() for name, network in networks.items()}, tmp_path / "weights.pt")
    models = read_gan(tmp_path / "weights.pt").models
    resolution = 4 * 2 ** (len(options["widths"]) - 1)
    inputs = {"generator_ema": torch.randn(4, 7), "discriminator": torch.randn(4, 4, resolution, resolution)}
    labels = torch.eye(4, classes) if classes else None
    for role, network in zip(inputs, networks.values(), strict=True):
        found = models[role]  # type: ignore[index]
        again = module_of(R3Gan, role, found)  # type: ignore[arg-type]
        assert found.options.items() >= {name: options[name] for name in options if name != "taps"}.items()
        assert torch.equal(again(inputs[role], labels), network(inputs[role], labels))
        rebuilt = (R3Gan.build_discriminator if role == "discriminator" else R3Gan.build)(**found.options)
        for name, kernel in rebuilt.named_buffers():  # what the arguments say of the filter is what is stored
            torch.testing.assert_close(kernel, found.tensors[name])


R3GAN_MISFITS: dict[str, tuple[str, tuple[int, ...] | None, str]] = {
    "a stage without blocks": ("MainLayers.1.Layers.1.LinearLayer3", None, "2 of 3 stages have residual blocks"),
    "no feature maps": ("MainLayers.0.Layers.1.LinearLayer2", (8, 0, 3, 3), "a stage without feature maps"),
    "another filter": ("Resampler.Kernel", (4, 4), "the resampling filter is not one of rows and columns alike"),
    "no latent": ("MainLayers.0.Layers.0.LinearLayer", (4, 0), "z_dim is 0, expected at least 1"),
}


@pytest.mark.parametrize("misfit", R3GAN_MISFITS)
def test_tensors_of_no_r3gan(misfit: str, tmp_path: Path) -> None:
    part, shape, reason = R3GAN_MISFITS[misfit]
    state = R3Gan.build(3, widths=[4, 4, 4], cardinalities=[2, 2, 2], blocks=[1, 1, 1]).state_dict()
    (name, *_) = [name for name in state if part in name]
    state |= {name: torch.randn(shape or ())}
    if shape is None:
        del state[name]
    torch.save({"G": state}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=f"weights.pt: G: r3gan generator: {reason}"):
        read_gan(tmp_path / "weights.pt")


NO_COUNTERPART: list[dict[str, Any]] = [
    {"demodulate": False},
    {"final_tanh": True},
    {"new_argument": 1},
    {"conv_clamp": "256"},
    {"conv_clamp": torch.ones(2)},
    {"mapping_lr_mul": float("nan")},
]


@pytest.mark.parametrize("change", NO_COUNTERPART, ids=str)
def test_arguments_without_a_counterpart(change: dict[str, Any], write_hammer: Callable[..., Path]) -> None:
    network = Generator(**GENERATOR, c_dim=0, mapping_layers=2)
    path = write_hammer({"generator": network.state_dict()}, **change)
    with pytest.raises(UserError, match=f"checkpoint.pth: generator: .*{next(iter(change))}"):
        read_gan(path)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"b8.conv0": (0, 2, 3, 3), "b8.conv1": (0, 0, 3, 3), "b4.conv1": (0, 0, 3, 3)}, "channel_base is 0"),
        ({"mapping.fc0": (6, 0)}, "z_dim is 0, expected at least 1"),
        ({"b8.torgb": (0, 8, 1, 1)}, "channels is 0"),
    ],
    ids=["widths", "z", "channels"],
)
def test_shapes_of_no_network(shapes: dict[str, Any], reason: str, write_hammer: Callable[..., Path]) -> None:
    tensors = Generator(**GENERATOR, c_dim=0, mapping_layers=2).state_dict()
    for name in tensors:
        for part, shape in shapes.items():
            if name.endswith(f"{part}.weight"):
                tensors[name] = torch.zeros(shape)
    with pytest.raises(UserError, match=f"checkpoint.pth: generator: .*{reason}"):
        read_gan(write_hammer({"generator": tensors}))


def test_shapes_tell_the_options(write_hammer: Callable[..., Path]) -> None:
    options: dict[str, Any] = GENERATOR | dict(c_dim=3, mapping_layers=3, layer_features=7, use_noise=False)
    path = write_hammer({"generator": Generator(**options).state_dict()}, noise_type="none")
    found = read_gan(path).models["generator"].options
    assert {name: found[name] for name in options} == options


def test_the_mean_w_of_rosinality(fixtures: Path, tmp_path: Path) -> None:
    path = fixtures / "files/rosinality/train_000000.pt"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    model = read_gan(path).models["generator_ema"]
    generator = Generator(**model.options)
    generator.load_state_dict(model.tensors)
    with torch.no_grad():
        drawn = generator.mapping.map(torch.randn(20000, 16, generator=torch.Generator().manual_seed(5)), None)
    errors = (model.tensors["mapping.w_avg"] - drawn.mean(dim=0)) / (drawn.std(dim=0) * (1 / 4096 + 1 / 20000) ** 0.5)
    assert errors.abs().max() < 5  # standard errors, of 16 numbers
    content = torch.load(path, weights_only=False) | {"latent_avg": torch.arange(16.0)[None]}
    torch.save(content, tmp_path / "converted.pt")
    again = read_gan(tmp_path / "converted.pt")
    assert torch.equal(again.models["generator_ema"].tensors["mapping.w_avg"], torch.arange(16.0))
    assert again.notes == [] and set(again.left_out) == {"g_optim", "d_optim", "args"}


def test_what_is_left_out_is_named(fixtures: Path) -> None:
    path = fixtures / "files/stylegan2_ada/skip_resnet_uncond.pkl"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    gan = read_gan(path)
    assert gan.names == {"generator": "G", "discriminator": "D", "generator_ema": "G_ema"}
    assert set(gan.left_out) == {"augment_pipe", "training_set_kwargs"}
    assert gan.augment_p == pytest.approx(0.35)


UNSUPPORTED = {
    "stylegan3/config_t.pkl": "a StyleGAN3 generator .config-t or config-r., which is not supported",
    "stylegan3/config_r.pkl": "a StyleGAN3 generator .config-t or config-r., which is not supported",
    "edm2/pixel_uncond_ema0.050.pkl": "ema is of the kind edm2 unet, expected a GAN",
}


@pytest.mark.parametrize("file", UNSUPPORTED)
def test_other_networks_are_named(file: str, fixtures: Path) -> None:
    if not (fixtures / "files" / file).is_file():
        pytest.skip(f"{fixtures} has no {file} (set SMARTFAST_FIXTURES)")
    with pytest.raises(UserError, match=f"^[^\n]*{UNSUPPORTED[file]}[^\n]*$"):
        read_gan(fixtures / "files" / file)


def test_a_file_whose_generator_cannot_be_read_is_refused(write_hammer: Callable[..., Path]) -> None:
    generator = Generator(**GENERATOR, c_dim=0, mapping_layers=2).state_dict()
    path = write_hammer({"generator": generator, "discriminator": Discriminator(**SIZES, c_dim=0).state_dict()})
    content = torch.load(path, weights_only=True)
    assert list(read_gan(path).models) == ["generator", "discriminator"]
    content["model_kwargs_init"] = {"generator": {"demodulate": False}}
    torch.save(content, path)
    message = "^[^\n]*checkpoint.pth: generator: hammer stylegan2 generator: demodulate is False, expected True$"
    with pytest.raises(UserError, match=message):
        read_gan(path)
    content["models"]["generator_smooth"] = content["models"]["generator"]
    torch.save(content, path)
    assert list(read_gan(path).models) == ["discriminator", "generator_ema"]


PROBABILITIES: list[tuple[object, float | None]] = [
    *((p, p) for p in (0, 0.35, 1, 1.2, 21.8)),
    (torch.tensor(21.75), 21.75),
    *((p, None) for p in (-0.1, float("nan"), float("inf"), 10**400, "1", torch.ones(2), None)),
]


@pytest.mark.parametrize(("stored", "p"), PROBABILITIES, ids=lambda value: str(value)[:8])
def test_the_probability_of_augmentation(stored: object, p: float | None, write_hammer: Callable[..., Path]) -> None:
    path = write_hammer({"generator": Generator(**GENERATOR, c_dim=0, mapping_layers=2).state_dict()})
    torch.save(torch.load(path, weights_only=True) | {"ada_aug_p": stored}, path)
    assert read_gan(path).augment_p == p
    pipe = Record("AugmentPipe", {"_parameters": {}, "_modules": {}, "_buffers": {"p": stored}})
    assert models._augment_p({"augment_pipe": pipe}) == p


def test_a_state_dict_alone_does_not_tell_its_options(tmp_path: Path) -> None:
    torch.save({"G_ema": Generator(**GENERATOR, c_dim=0).state_dict()}, tmp_path / "network.pt")
    with pytest.raises(UserError, match="G_ema: .*tensors alone do not tell activations, gains and clamps"):
        read_gan(tmp_path / "network.pt")
