"""ADM's UNet and DhariwalUNet as UNet2DModel give the same numbers, or say why there is none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel
from torch import Tensor, nn

from smartfast.errors import UserError
from smartfast.networks.unets import (
    ADM,
    ADMOptions,
    Denoiser,
    DhariwalOptions,
    DhariwalUNet,
    EDM2Options,
    EDMOptions,
    SongOptions,
    build_network,
)
from smartfast.networks.unets.published import ADM_NETWORKS, EDM_NETWORKS
from smartfast.scorers.adm import adm_schedule
from smartfast.scorers.converted import save_scorer
from smartfast.scorers.edm import own_schedule
from smartfast.scorers.schedule import schedule_from_config
from smartfast.tools.convert import ConvertOptions, convert
from smartfast.tools.unet2d import structure_of, unet2d_config, unet2d_tensors

ADM16 = ADMOptions(
    16,
    model_channels=32,
    num_res_blocks=2,
    channel_mult=(1, 2, 2),
    attention_resolutions=(8, 4),
    num_classes=5,
    num_head_channels=16,
)
DHARIWAL = DhariwalOptions(
    8, label_dim=64, model_channels=128, channel_mult=(1, 2), channel_mult_emb=2, num_blocks=1, attn_resolutions=(4,)
)


def filled(network: Any) -> Any:
    """With weights that do something: the last of each block begin at zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def as_unet2d(options: Any, network: nn.Module, out_channels: int) -> UNet2DModel:
    structure = structure_of(options)
    unet = UNet2DModel(**unet2d_config(structure, out_channels))
    unet.load_state_dict(unet2d_tensors(structure, network.state_dict()))
    return unet.eval()


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_new_attention_order": True},
        {"resblock_updown": False, "use_scale_shift_norm": False},
        {"num_head_channels": None, "num_heads": 4, "num_classes": None, "out_channels": 3, "attention_dims": 2},
    ],
    ids=str,
)
def test_adm(changes: dict[str, Any]) -> None:
    options = replace(ADM16, **changes)
    network = filled(ADM(options))
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([0, 7, 600])
    labels = torch.tensor([0, 4, 2]) if options.num_classes else None
    unet = as_unet2d(options, network, options.out_channels)
    assert_same(unet(x, t, class_labels=labels).sample, network(x, t, labels))


@torch.no_grad()
def test_dhariwal() -> None:
    network = filled(DhariwalUNet(DHARIWAL))
    x, noise, labels = torch.randn(2, 3, 8, 8), torch.tensor([-0.7, 0.4]), torch.tensor([3, 63])
    assert_same(as_unet2d(DHARIWAL, network, 3)(x, noise, class_labels=labels).sample, network(x, noise, labels))


NONE = [
    (replace(ADM16, channel_mult=(0.5, 1)), "first block has 16 channels and its time 32"),
    (replace(ADM16, num_head_channels=None, num_heads=2, channel_mult=(1, 2, 4)), "channels of a head differ.*32, 64"),
    (ADM_NETWORKS["128x128_diffusion"], "channels of a head differ"),
    (replace(DHARIWAL, model_channels=32), "groups differ"),
    (replace(DHARIWAL, model_channels=16, channel_mult=(1,)), "groups differ"),
]


@pytest.mark.parametrize(("options", "reason"), NONE, ids=[str(i) for i in range(len(NONE))])
def test_what_it_has_not(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unet2d_config(structure_of(options), 3)


@pytest.mark.parametrize(
    "name", ["64x64_diffusion", "256x256_diffusion", "lsun_bedroom", "edm-imagenet-64x64-cond-adm"]
)
def test_published_networks_are_among_them(name: str) -> None:
    options: Any = (ADM_NETWORKS | EDM_NETWORKS)[name]
    inner = getattr(options, "model", options)
    with torch.device("meta"):
        network = build_network(options)
        structure = structure_of(inner)
        unet = UNet2DModel(**unet2d_config(structure, 6 if inner is options else 3))
    tensors = unet2d_tensors(structure, {n.removeprefix("model."): v for n, v in network.state_dict().items()})
    assert {n: v.shape for n, v in unet.state_dict().items()} == {n: v.shape for n, v in tensors.items()}


def saved(tmp_path: Any, options: Any, **known: Any) -> Any:
    network = filled(build_network(options))
    save_scorer(tmp_path / "ours", options, network.state_dict(), **known)
    return network


def theirs(tmp_path: Any) -> str:
    out = tmp_path / "theirs"
    return str(convert(ConvertOptions(source=str(tmp_path / "ours"), out=str(out), to="diffusers")))


@torch.no_grad()
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_folder_of_adm(tmp_path: Any, name: Any) -> None:
    network = saved(tmp_path, ADM16, schedule=name)
    folder = theirs(tmp_path)
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([20, 900]), torch.tensor([1, 2])
    unet = UNet2DModel.from_pretrained(folder)
    assert_same(unet(x, t, class_labels=labels).sample, network(x, t, labels))
    config = DDPMScheduler.from_pretrained(folder).config
    assert config.variance_type == "learned_range"
    found, expected = schedule_from_config(dict(config), "it"), adm_schedule(name)
    torch.testing.assert_close(found.sigmas, expected.sigmas, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_folder_of_edm(tmp_path: Any) -> None:
    denoise = saved(tmp_path, EDMOptions(DHARIWAL, sigma_data=0.6))
    folder = theirs(tmp_path)
    unet, scheduler = UNet2DModel.from_pretrained(folder), EDMEulerScheduler.from_pretrained(folder)
    x, labels = torch.randn(1, 3, 8, 8), torch.tensor([2])
    for sigma in (torch.tensor([0.01]), torch.tensor([1.3]), torch.tensor([60.0])):
        output = unet(
            scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma), class_labels=labels
        ).sample
        assert_same(scheduler.precondition_outputs(x, output, sigma), denoise(x, sigma, labels))


def test_the_schedule_of_iddpm_is_the_cosine_one() -> None:
    own = own_schedule(Denoiser(EDMOptions(DHARIWAL, "iddpm")))
    cosine = adm_schedule("cosine")
    torch.testing.assert_close(own.sigmas, cosine.sigmas / cosine.alphas, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_folder_of_iddpm(tmp_path: Any) -> None:
    denoise = saved(tmp_path, EDMOptions(DHARIWAL, "iddpm"))
    folder = theirs(tmp_path)
    t, x, labels = torch.tensor([300]), torch.randn(1, 3, 8, 8), torch.tensor([2])
    sigma = denoise.u.flip(0)[1:][t]
    eps = UNet2DModel.from_pretrained(folder)(x / (1 + sigma**2) ** 0.5, t, class_labels=labels).sample[:, :3]
    assert_same(x - sigma * eps, denoise(x, sigma, labels))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (EDMOptions(SongOptions(8, model_channels=32, channel_mult=(1,), num_blocks=1)), "of the kind song"),
        (EDM2Options(8, model_channels=32, channel_mult=(1,), num_blocks=1), "of the kind edm2"),
        (EDMOptions(replace(ADM16, out_channels=3), "cm"), "its preconditioning is cm"),
    ],
    ids=["song", "edm2", "cm"],
)
def test_scorers_that_diffusers_has_not(tmp_path: Any, options: Any, reason: str) -> None:
    saved(tmp_path, options)
    with pytest.raises(UserError, match=f"ours: as diffusers' UNet2DModel it cannot be written: .*{reason}"):
        theirs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
