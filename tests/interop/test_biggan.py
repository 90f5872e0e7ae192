"""BigGAN-PyTorch's folders: which files belong together, what shapes tell, and what is said of the rest."""

from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.families.biggan.family import BigGan
from smartfast.families.imported import module_of
from smartfast.interop import read_gan
from smartfast.run.start import start_elsewhere
from smartfast.run.training import Training

OF_G: dict[str, Any] = dict(z_dim=24, shared_dim=5, hierarchical=True, norm_eps=1e-4)
SHAPES: dict[str, dict[str, Any]] = {
    "32": dict(resolution=32, width=2, z_dim=7, hierarchical=False, shared_dim=0, own_norm=True, attention=[]),
    "64": dict(resolution=64, width=4, z_dim=25, attention=[8, 32], spectral_vectors=2, channels=1),
    "128": dict(resolution=128, width=4, attention=[8], hierarchical=False),
    "256": dict(resolution=256, width=4, z_dim=21, attention=[]),
}


def networks(**changes: Any) -> tuple[dict[str, Any], torch.nn.Module, torch.nn.Module]:
    options = dict(resolution=32, width=2, classes=3, channels=3, attention=[16], spectral_eps=1e-7)
    options |= {name: value for name, value in changes.items() if name not in (*OF_G, "own_norm")}
    of_g = OF_G | {name: value for name, value in changes.items() if name in (*OF_G, "own_norm")}
    of_d = options | dict(attention=[16] if options["resolution"] == 32 and options["attention"] else [])
    return options | of_g, BigGan.build(**options, **of_g), BigGan.build_discriminator(**of_d)


def write(folder: Path, suffix: str = "", **changes: Any) -> dict[str, Any]:
    """A folder as the project writes it; returns the options of its generator."""
    options, g, d = networks(**changes)
    folder.mkdir(exist_ok=True)
    for name, module in (("G", g), ("D", d), ("G_ema", g)):
        tensors = {key: value + (name == "G_ema") for key, value in module.state_dict().items()}
        torch.save(tensors, folder / f"{name}{suffix}.pth")
    config = dict(SN_eps=1e-7, BN_eps=1e-4, G_nl="relu", D_nl="inplace_relu")
    torch.save({"itr": 12, "best_IS": 3.5, "config": config}, folder / f"state_dict{suffix}.pth")
    return options


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_settings_tell_the_options(shape: str, tmp_path: Path) -> None:
    options = write(tmp_path, **SHAPES[shape])
    gan = read_gan(tmp_path / "D.pth")
    assert set(gan.models) == {"generator", "discriminator", "generator_ema"} and len(gan.files) == 4
    found = gan.models["generator_ema"].options
    assert {name: found[name] for name in options} == options
    for role, model in gan.models.items():
        module_of(BigGan, role, model)
    assert gan.left_out == {"best_IS": "no network"} and "trained for 12 iterations" in gan.notes
    average, trained = (gan.models[role].tensors["linear.bias"] for role in ("generator_ema", "generator"))
    assert torch.allclose(average, trained + 1)


def test_files_of_one_moment_belong_together(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "_best0", width=4)
    gan = read_gan(tmp_path / "G_ema_best0.pth")
    names = {"G_ema_best0.pth", "G_best0.pth", "D_best0.pth", "state_dict_best0.pth"}
    assert {file.name for file in gan.files} == names and gan.models["discriminator"].options["width"] == 4
    (tmp_path / "D_best0.pth").write_bytes((tmp_path / "D_best0.pth").read_bytes()[:-100])
    (tmp_path / "state_dict_best0.pth").unlink()
    gan = read_gan(tmp_path / "G_best0.pth")
    assert set(gan.models) == {"generator", "generator_ema"} and set(gan.left_out) == {"D_best0.pth"}
    assert any("the epsilons of norms are its project's defaults" in note for note in gan.notes)
    (tmp_path / "renamed.pth").write_bytes((tmp_path / "G_ema.pth").read_bytes())
    assert list(read_gan(tmp_path / "renamed.pth").models) == ["generator"]


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "G_nl": (dict(G_nl="leaky"), "G_nl is leaky, expected one of relu, inplace_relu"),
    "SN_eps": (dict(SN_eps="small"), "SN_eps is small, expected a number between 0 and 1"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_settings_of_other_networks(name: str, tmp_path: Path) -> None:
    change, reason = MISFITS[name]
    write(tmp_path)
    torch.save({"config": change}, tmp_path / "state_dict.pth")
    with pytest.raises(UserError, match=f"G_ema.pth: .*{reason}"):
        read_gan(tmp_path / "G_ema.pth")


@pytest.mark.parametrize(
    ("tensor", "value", "reason"),
    [
        ("blocks.3.0.conv1.weight", torch.ones(2, 2, 3, 3), "linear.weight is (128, 6), expected (1024, 6)"),
        ("output_layer.2.weight", torch.ones(3, 2, 3, 3), "2 feature maps and 3 classes, expected at least 4 and 1"),
        ("shared.weight", torch.ones(0, 5), "8 feature maps and 0 classes"),
        ("linear.weight", torch.full((128, 6), torch.nan), "linear.weight has numbers that are not finite"),
        ("linear.bias", torch.ones(3), "linear.bias is"),
    ],
)
def test_tensors_of_no_biggan(tensor: str, value: torch.Tensor, reason: str, tmp_path: Path, capsys: Any) -> None:
    tensors = networks()[1].state_dict() | {tensor: value}
    torch.save(tensors, tmp_path / "network.pth")
    assert main(["convert", str(tmp_path / "network.pth"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "network.pth: G: " in error and reason in error and error.count("\n") == 1


def test_a_folder_is_converted_and_started_from(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "from", channels=1, classes=10)
    assert main(["convert", str(tmp_path / "from"), "--out", str(tmp_path / "out")]) == 0
    assert "BigGAN, 32x32x1, 10 classes" in capsys.readouterr().out
    assert main(["generate", "--checkpoint", str(tmp_path / "out"), "--out", str(tmp_path / "x.png"), "--seeds=1"]) == 0
    settings = (
        "--gan.family=biggan --data.labels=true --data.resolution=32 --gan.width_g=2 --gan.width_d=2 --gan.z_dim=24"
    )
    settings += " --gan.shared_dim=5 --gan.attention_g=[16] --gan.attention_d=[16] --smart.frequency=0"
    for start in ("from", "out", "from/G_ema.pth"):
        config = parse_config([*settings.split(), f"--run.init_from={tmp_path / start}"])
        training = Training(config, open_dataset(config.data), device=torch.device("cpu"))
        table = start_elsewhere(training, lambda line: None)
        assert table and "re-initialised" not in table and "skipped" not in table
        stored = torch.load(tmp_path / "from" / "G_ema.pth", weights_only=True)
        assert torch.equal(
            training.ema.module.state_dict()["blocks.1.0.bn1.stored_var"], stored["blocks.1.0.bn1.stored_var"]
        )
        assert training.family.average_step(0, 32) == pytest.approx(1e-4)
