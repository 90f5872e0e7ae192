"""`smartfast convert`: every file of the manifest, converted folders in the commands, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from smartfast.cli import main
from smartfast.core.files import sha256
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.r3gan.family import R3Gan
from smartfast.families.saved import open_sampler
from smartfast.interop import find_networks
from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.run.start import read_weights
from smartfast.scorers import load_scorer
from smartfast.scorers.distilled import write_learnt_interval
from smartfast.tools import convert_gan
from smartfast.tools.convert import ConvertOptions, convert
from smartfast.tools.evaluate import DataOptions, EvaluateOptions, MetricsOptions, evaluate_command

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
REASONS = {
    "files/adm/": "its tensors are of no published network, expected scorer_options.image_size",
}
"""Of honest files that are not converted, or not without being told more."""


def entries(expected: str) -> list[Any]:
    manifest = FIXTURES / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(f"{FIXTURES} has no manifest.json (set SMARTFAST_FIXTURES)"))]
    listed = json.loads(manifest.read_text())["files"]
    return [pytest.param(e, id=e["file"].removeprefix("files/")) for e in listed if e["expect"] == expected]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert main(["convert", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("smartfast: error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("entry", entries("refuse"))
def test_refused(entry: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, FIXTURES / entry["file"], "--out", "converted")
    assert Path(entry["file"]).name in message and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", entries("load"))
def test_converted_or_named(entry: Any, tmp_path: Path, capsys: Any) -> None:
    source, out = FIXTURES / entry["file"], tmp_path / "converted"
    reason = next((reason for start, reason in REASONS.items() if entry["file"].startswith(start)), None)
    if source.name == "state_dict.pth":
        reason = "no network of a known kind"
    if reason:
        assert reason in refusal(capsys, source, "--out", out) and list(tmp_path.iterdir()) == []
        return
    assert main(["convert", str(source), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert entry["sha256"] in printed and "licence: " in printed
    (file,) = [out / name for name in ("conversion.json", "scorer.json") if (out / name).is_file()]
    record = json.loads(file.read_text())
    beside = (
        sorted({"G.pth", "D.pth", "G_ema.pth", "state_dict.pth"} - {source.name}) if "/biggan/" in str(source) else []
    )
    assert sorted(read["file"] for read in record["source"]) == sorted([source.name, *beside])
    assert {"file": source.name, "size_bytes": entry["bytes"], "sha256": entry["sha256"]} in record["source"]
    assert all(read["name"] in printed and (out / read["file"]).is_file() for read in record["read"])
    assert all(name in printed for name in record["left_out"])
    named = {read["name"] for read in record["read"]} | set(record["left_out"])
    assert set(entry.get("top_level", [])) <= named


SIZES: dict[str, Any] = dict(resolution=16, channels=1, c_dim=10, channel_base=64, channel_max=8)
DIGITS = dict(z_dim=4, w_dim=6, mapping_layers=1, mapping_lr_multiplier=0.1)
"""Of a generator of the digits."""


@pytest.fixture
def digits_file(write_hammer: Callable[..., Path]) -> Path:
    generator = Generator(**SIZES, **DIGITS)
    torch.nn.init.normal_(generator.mapping.w_avg)
    return write_hammer({"generator_smooth": generator.state_dict()}, mapping_lr_mul=0.1)


@pytest.fixture
def r3gan_file(tmp_path: Path) -> Path:
    """Of digits, as a dictionary of weights: R3GAN's names and shapes tell all of it."""
    shape: dict[str, Any] = dict(widths=[8, 8, 4], cardinalities=[4, 4, 2], blocks=[1, 1, 1], channels=1, classes=10)
    file = tmp_path / "r3gan.pt"
    torch.save({"G_ema": R3Gan.build(4, embedding=6, **shape).state_dict()}, file)
    return file


@pytest.mark.parametrize("kind", ["digits_file", "r3gan_file"])
def test_converted_folders_in_the_commands(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    out = tmp_path / "new" / "converted"
    assert main(["convert", str(request.getfixturevalue(kind)), "--out", str(out)]) == 0
    for command, more in (("generate", []), ("interpolate", ["--steps", "2"])):
        picture = tmp_path / f"{command}.png"
        arguments = ["--checkpoint", str(out), "--out", str(picture), "--seeds", "0-2", "--device", "cpu", *more]
        assert main([command, *arguments]) == 0 and picture.is_file()
    options = EvaluateOptions(
        checkpoint=str(out),
        device="cpu",
        data=DataOptions(path="digits"),
        metrics=MetricsOptions(names=("fid",), samples=20, features="digits"),
    )
    assert evaluate_command(options)["fd_digits"] > 0
    (out / "generator_ema.safetensors").unlink()
    with pytest.raises(UserError, match="converted: expected a run folder, a checkpoint folder"):
        open_sampler(out)


def test_out_is_not_overwritten(digits_file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    for out in (tmp_path / "there", digits_file):
        assert f"out: {out} is there already" in refusal(capsys, digits_file, "--out", out)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    convert(ConvertOptions(source=str(digits_file), out=str(tmp_path / "empty")))
    assert (tmp_path / "empty" / "conversion.json").is_file()


def test_half_a_folder_is_not_left(digits_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_gan, "save_file", full)
    message = refusal(capsys, digits_file, "--out", tmp_path / "converted")
    assert "converted cannot be written (No space left on device)" in message
    assert list(tmp_path.iterdir()) == [digits_file]


def test_networks_that_do_not_fit_are_left_out(write_hammer: Any, tmp_path: Path, capsys: Any) -> None:
    generator, discriminator = Generator(**SIZES, **DIGITS).state_dict(), Discriminator(**SIZES).state_dict()
    broken = generator | {"synthesis.b8.conv0.bias": torch.full((8,), torch.nan)}
    file = write_hammer({"generator": broken, "discriminator": discriminator, "generator_smooth": generator})
    content = torch.load(file)
    content["models"]["discriminator"]["layer0.bias"] = torch.zeros(3)
    content["models"]["encoder"] = {"weight": torch.zeros(2)}
    torch.save(content, file)
    record = json.loads((convert_file(file, tmp_path) / "conversion.json").read_text())
    assert [read["file"] for read in record["read"]] == ["generator_ema.safetensors"]
    assert record["left_out"]["generator"] == "synthesis.b8.conv0.bias has numbers that are not finite"
    assert record["left_out"]["discriminator"] == "b16.conv0.bias is (3,), expected (4,)"
    assert record["left_out"]["encoder"] == "a network of an unknown kind"
    del content["models"]["generator_smooth"]
    torch.save(content, file)
    message = refusal(capsys, file, "--out", tmp_path / "none")
    assert "generator: synthesis.b8.conv0.bias has numbers that are not finite; discriminator: b16" in message


def test_a_generator_that_cannot_be_built_is_no_discriminator_alone(
    write_hammer: Any, tmp_path: Path, capsys: Any
) -> None:
    generator, discriminator = Generator(**SIZES, **DIGITS).state_dict(), Discriminator(**SIZES).state_dict()
    generator["synthesis.b8.conv0.bias"] = torch.full((8,), torch.nan)
    file = write_hammer({"generator": generator, "discriminator": discriminator}, mapping_lr_mul=0.1)
    message = refusal(capsys, file, "--out", tmp_path / "none")
    assert "checkpoint.pth: generator: synthesis.b8.conv0.bias has numbers that are not finite\n" in message
    assert list(tmp_path.iterdir()) == [file]


def convert_file(source: Path, tmp_path: Path, to: Any = "smartfast", out: str = "converted") -> Path:
    return convert(ConvertOptions(source=str(source), out=str(tmp_path / out), to=to))


def test_without_an_average_the_generator_stands_in(write_hammer: Any, tmp_path: Path, capsys: Any) -> None:
    generator = Generator(**SIZES, **DIGITS)
    folder = convert_file(write_hammer({"generator": generator.state_dict()}), tmp_path)
    assert "generator_ema is generator: the file has no average" in capsys.readouterr().out
    tensors = load_file(folder / "generator_ema.safetensors")
    assert torch.equal(tensors["mapping.fc0.weight"], generator.mapping.fc0.weight)


def test_generators_from_before_noise_was_stored(tmp_path: Path, capsys: Any) -> None:
    content = torch.load(fixture_file("rosinality/train_000000.pt"), weights_only=False)
    for name in ("g", "g_ema"):
        content[name] = {key: value for key, value in content[name].items() if not key.startswith("noises.")}
    torch.save(content, tmp_path / "550000.pt")
    folder = convert_file(tmp_path / "550000.pt", tmp_path)
    assert "noise maps of g and g_ema are drawn here" in capsys.readouterr().out
    assert {file.name for file in folder.glob("gen*.safetensors")} == {
        "generator.safetensors",
        "generator_ema.safetensors",
    }
    open_sampler(folder)


def test_a_probability_above_one_reaches_a_transfer(digits_file: Path, tmp_path: Path, capsys: Any) -> None:
    torch.save(torch.load(digits_file, weights_only=True) | {"ada_aug_p": 21.8}, digits_file)
    folder = convert_file(digits_file, tmp_path)
    assert "augmentation had reached the probability 21.8" in capsys.readouterr().out
    for source in (digits_file, folder):
        assert read_weights(str(source), FAMILIES["stylegan2"]).augment_p == 21.8


def fixture_file(name: str) -> Path:
    path = FIXTURES / "files" / name
    return path if path.is_file() else pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")


def arguments_of(project: dict[str, Any]) -> dict[str, Any]:
    """Of stylegan2-ada-pytorch's classes, as a file has them, without precision."""
    plain = {name: arguments_of(v) if isinstance(v, dict) else v for name, v in project.items()}
    return {name: v for name, v in plain.items() if name not in ("num_fp16_res", "w_avg_beta")}


def is_within(part: Any, whole: Any) -> bool:
    if not isinstance(part, dict):
        return part == whole or pytest.approx(whole) == [tap / sum(part) for tap in part]
    return all(name in whole and is_within(value, whole[name]) for name, value in part.items())


@pytest.mark.parametrize("name", ["skip_resnet_uncond", "skip_orig_cond10_fp16", "orig_skip_grey_options"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_nvidia_state_dicts(name: str, suffix: str, tmp_path: Path) -> None:
    source = fixture_file(f"stylegan2_ada/{name}.pkl")
    out = convert_file(convert_file(source, tmp_path), tmp_path, "nvidia-state-dict", f"network{suffix}")
    if suffix == ".pt":
        content = torch.load(out, weights_only=True)
        tensors = {f"{n}.{key}": value for n, entry in content.items() for key, value in entry["state_dict"].items()}
        kwargs = {network: entry["kwargs"] for network, entry in content.items()}
    else:
        tensors = load_file(out)
        with safe_open(out, "pt") as file:
            kwargs = {network: json.loads(value) for network, value in file.metadata().items()}
    networks = {n: network for n, network in find_networks(source).items() if n != "augment_pipe"}
    expected = {f"{n}.{key}": value for n, network in networks.items() for key, value in network.tensors.items()}
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[n], expected[n]) for n in expected)
    for n, network in networks.items():
        assert is_within(arguments_of(network.kwargs), kwargs[n])


def test_nvidia_state_dict_of_a_run(make_checkpoint: Any, tmp_path: Path, capsys: Any) -> None:
    run = make_checkpoint(c_dim=3)
    content = torch.load(convert_file(run, tmp_path, "nvidia-state-dict", "network.pt"), weights_only=True)
    assert list(content) == ["G_ema"] and content["G_ema"]["kwargs"]["mapping_kwargs"]["num_layers"] == 2
    expected = open_sampler(run).module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in content["G_ema"]["state_dict"].items())
    message = refusal(capsys, run, "--out", tmp_path / "network", "--to", "nvidia-state-dict")
    assert "out: network ends in nothing, expected .pt or .safetensors" in message


@pytest.mark.parametrize("is_pipeline", [False, True])
def test_a_diffusers_folder(is_pipeline: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    unet.save_pretrained(source / "unet" if is_pipeline else source)
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_config(source / "scheduler" if is_pipeline else source)
    write_learnt_interval(source, "digits", (0.1, 0.5))
    found, expected = (load_scorer(str(folder)) for folder in (convert_file(source, tmp_path), source))
    assert found.learnt_interval == (0.1, 0.5)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    assert torch.equal(found.predict_eps(x, t), expected.predict_eps(x, t)) and found.schedule == expected.schedule
    record = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    digests = {entry["file"]: entry["sha256"] for entry in record["source"]}
    weights = next(source.rglob("*.safetensors"))
    assert digests[weights.name] == sha256(weights)


def test_what_is_neither_file_nor_scorer(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "folder").mkdir()
    message = refusal(capsys, tmp_path / "folder", "--out", tmp_path / "out")
    assert "expected a file, or a diffusers folder" in message
    assert "No such file" in refusal(capsys, tmp_path / "nothing", "--out", tmp_path / "out")


def test_half_precision_stays(tmp_path: Path) -> None:
    folder = convert_file(fixture_file("edm2/pixel_cond10_ema0.100.pkl"), tmp_path)
    assert load_file(folder / "scorer.safetensors")["unet.enc.16x16_conv.weight"].dtype == torch.float16


def test_what_is_no_source_of_a_format(digits_file: Path, r3gan_file: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.pt"
    message = refusal(capsys, digits_file, "--out", out, "--to", "diffusers")
    assert "holds hammer stylegan2 generator generator_smooth, expected a scorer: adm unet, " in message
    message = refusal(capsys, convert_file(r3gan_file, tmp_path), "--out", out, "--to", "nvidia-state-dict")
    assert "converted: is of another family than stylegan2" in message
    message = refusal(capsys, digits_file, "--out", out, "--to", "nvidia-state-dict")
    assert "checkpoint.pth: expected a run, checkpoint or converted folder" in message
    message = refusal(capsys, digits_file, "--out", out, "--scorer_options.heads", "4")
    assert "scorer_options.heads: given, expected unset" in message
    message = refusal(capsys, tmp_path, "--out", out, "--to", "diffusers")
    assert "scorer.json" in message


def test_options_that_a_folder_does_not_hold(tmp_path: Path, capsys: Any) -> None:
    source = fixture_file("edm/vp_ddpmpp_uncond.pkl")
    message = refusal(capsys, source, "--out", tmp_path / "out", "--scorer_options.sigma_max", "5")
    assert "scorer_options.sigma_max is 5.0, expected unset: what is converted holds image_size, heads" in message
    assert list(tmp_path.iterdir()) == []
