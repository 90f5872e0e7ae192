"""Runs that start from other weights: what fits is theirs, the rest is what a new run has, and resuming is exact."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartfast.cli import main
from smartfast.config.families import UNetOptions
from smartfast.config.parse import load_config, parse_config
from smartfast.config.schema import DataConfig
from smartfast.core.checkpoint import find_checkpoint, load_newest, save_checkpoint
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.base import Family
from smartfast.families.r3gan.family import R3Gan
from smartfast.interop import read_gan
from smartfast.run.start import read_weights, start_elsewhere, with_transfer_values
from smartfast.run.training import Training
from smartfast.tools.convert import ConvertOptions, convert
from smartfast.tools.train_scorer import TrainScorerOptions, train_scorer

Options = Callable[..., list[str]]
FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
TEN_CLASSES = {"data__labels": "true", "data__resolution": 16, "gan__noise": "true", "loss__style_mixing_prob": 0}
NETWORKS = ("g/module/", "d/module/")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> Path:
    """A run with ten classes at 16 pixels, after two iterations."""
    folder = tmp_path_factory.mktemp("source") / "run"
    training, _ = new(tiny_options(folder, **TEN_CLASSES))
    for _ in range(2):
        training.run_iteration(reals())
    state, family = training.state(), training.family
    options = {"family": family.name, **family.options()}
    weights = training.averaged_weights(state)
    folder.mkdir()
    save_checkpoint(folder, images=16, state=state, generator=weights, generator_options=options, info={}, keep=1)
    return folder


def reals() -> RealBatch:
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return RealBatch(images, torch.arange(8))


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five classes at 16 pixels."""
    file = tmp_path_factory.mktemp("five") / "set.npz"
    digits = open_dataset(parse_config(["--data.labels=true", "--data.resolution=16"]).data)
    kept = (digits.labels < 5).nonzero().flatten().tolist()[:20]
    arrays = {"images": torch.stack([digits.image(i)[0] for i in kept]).numpy(), "labels": digits.labels[kept].numpy()}
    np.savez(file, **arrays)
    return file


def new(options: list[str], init_from: Path | None = None) -> tuple[Training, str]:
    """A run at its start, and what it said."""
    config = parse_config([*options, *([f"--run.init_from={init_from}"] if init_from else [])])
    training, said = Training(with_transfer_values(config), open_dataset(config.data), device=torch.device("cpu")), []
    start_elsewhere(training, said.append)
    return training, "\n".join(said)


TARGETS = {
    "five classes": (
        {"data__labels": "true"},
        {"g": "mapping.embed.weight", "d": "mapping.embed.weight"},
        {"g": "", "d": ""},
    ),
    "no classes": (
        {"data__labels": "false"},
        {"g": "mapping.fc0.weight", "d": "b4.out.weight b4.out.bias"},
        {
            "g": "mapping.embed.weight mapping.embed.bias",
            "d": "mapping.embed.weight mapping.embed.bias mapping.fc0.weight mapping.fc0.bias",
        },
    ),
}
"""Changes, then of each network the tensors that start anew, and those that are left out."""


@pytest.mark.parametrize("target", [*TARGETS, "32 pixels"])
def test_what_fits_is_loaded_and_the_rest_is_that_of_a_new_run(
    target: str, source: Path, five_classes: Path, tiny_options: Options, tmp_path: Path
) -> None:
    changes = TEN_CLASSES | (TARGETS[target][0] if target in TARGETS else {"data__resolution": 32})
    if target == "five classes":
        changes |= {"data__path": five_classes}
    options = tiny_options(tmp_path / "run", **changes)
    (training, said), (fresh, _) = new(options, source), new(options)
    there, here, anew = load_newest(source).state, training.state(), fresh.state()
    loaded = {name for name in here if name in there and there[name].shape == here[name].shape}
    loaded = {name for name in loaded if name.startswith((*NETWORKS, "ema/"))}
    wrong = [name for name in here if not torch.equal(here[name], (there if name in loaded else anew)[name])]
    assert loaded and not wrong
    for network in "gd":
        names = {name.removeprefix(f"{network}/module/") for name in here if name.startswith(f"{network}/module/")}
        unloaded = {name for name in names if f"{network}/module/{name}" not in loaded}
        if target in TARGETS:
            _, expected, skipped = TARGETS[target]
            assert unloaded == set(expected[network].split())
            assert said.count(f"\n  {network} ") == len([*expected[network].split(), *skipped[network].split()])
        else:
            assert unloaded and all(name.startswith(("synthesis.b32.", "b32.")) for name in unloaded)
            assert any(f"{network}/module/{n}" not in there for n in names) and f"  {network}: and " in said


def test_the_table_says_shapes_and_settings_that_differ(source: Path, tiny_options: Options, tmp_path: Path) -> None:
    changes = TEN_CLASSES | {"data__labels": "false", "gan__mapping_lr_multiplier": 0.5}
    _, said = new(tiny_options(tmp_path / "run", **changes), source)
    assert f"start: {find_checkpoint(source)}\n" in said
    assert "  g mapping.fc0.weight: [8, 16] -> [8, 8], re-initialised\n" in said
    assert "  d mapping.embed.bias: [8] -> none, skipped\n" in said
    assert "options that differ (there -> here): c_dim 10 -> 0, mapping_lr_multiplier 0.1 -> 0.5\n" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__ema_rampup": 0.05},
        {"optim__ema_kimg": "{kind: cosine, kimg: [0, 500], values: [0.001, 1]}"},  # as R3GAN's
    ],
    ids=["ramp-up", "schedule"],
)
def test_the_average_starts_from_the_average_and_moves_without_a_ramp(
    changes: dict[str, object], source: Path, tiny_options: Options, tmp_path: Path
) -> None:
    """Half-life 1 kimg, 8 images: with a ramp-up the average would forget its start at once."""
    options = tiny_options(tmp_path / "run", **TEN_CLASSES, **changes)
    training, _ = new(options, source)
    name = "synthesis.b16.conv1.weight"
    before = training.state()[f"ema/{name}"].clone()
    assert not torch.equal(before, training.state()[f"g/module/{name}"])
    training.run_iteration(reals())
    expected = before.lerp(training.state()[f"g/module/{name}"], 1 - 0.5 ** (8 / 1000))
    torch.testing.assert_close(training.state()[f"ema/{name}"], expected)


def exported(source: Path, folder: Path, files: dict[str, str]) -> Path:
    """A folder of weights: file of a network -> its prefix in a checkpoint's state."""
    folder.mkdir()
    checkpoint = load_newest(source)
    for file, prefix in files.items():
        tensors = {n.removeprefix(prefix): v for n, v in checkpoint.state.items() if n.startswith(prefix)}
        save_file(tensors, folder / f"{file}.safetensors")
        shutil.copy(checkpoint.path / "generator_ema.json", folder / f"{file}.json")
    return folder


def test_one_generator_stands_in_for_the_other(source: Path, tiny_options: Options, tmp_path: Path) -> None:
    options, there = tiny_options(tmp_path / "run", **TEN_CLASSES), load_newest(source).state
    alone = find_checkpoint(source) / "generator_ema.safetensors"
    plain = exported(source, tmp_path / "plain", {"generator": "g/module/", "discriminator": "d/module/"})
    name = "synthesis.b16.conv1.weight"
    for path, of_both in ((alone, f"ema/{name}"), (plain, f"g/module/{name}")):
        training, said = new(options, path)
        for prefix in ("ema/", "g/module/"):
            assert torch.equal(training.state()[prefix + name], there[of_both])
        assert ("none, starts anew" in said) == (path == alone)
        is_same = torch.equal(training.state()["d/module/b16.conv0.weight"], there["d/module/b16.conv0.weight"])
        assert is_same == (path == plain)


def test_a_killed_run_ends_as_one_that_was_not_and_needs_no_source(
    source: Path, tiny_options: Options, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    moved = Path(shutil.copytree(source, tmp_path / "source"))
    changes = TEN_CLASSES | {"data__labels": "false", "run__init_from": moved, "gan__freeze_d": 4}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", *tiny_options(whole, run__kimg=0.032, **changes)]) == 0
    assert "re-initialised" in capsys.readouterr().out
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoints" / "000000.032")
    (killed / "report.html").unlink()
    shutil.rmtree(moved)
    assert main(["train", *tiny_options(killed, run__kimg=0.032, **changes)]) == 0
    said = capsys.readouterr().out
    assert "resumed at 0.016" in said and "re-initialised" not in said
    a, b = load_newest(whole).state, load_newest(killed).state
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []
    saved = load_config(killed / "config.yaml")
    assert (saved.run.init_from, saved.optim.ema_rampup) == (str(moved), None)
    assert "re-initialised" in (killed / "start.txt").read_text()
    frozen = [f"d/module/b16.{name}.weight" for name in ("fromrgb", "conv0", "conv1", "skip")]
    assert [name for name in frozen if not torch.equal(a[name], load_newest(source).state[name])] == []
    assert main(["train", *tiny_options(killed, run__kimg=0.048, **changes | {"run__init_from": source})]) == 2
    assert f"run.init_from is {source}, but the run in {killed} was started with {moved}" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_loaded(
    source: Path, tiny_options: Options, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = tiny_options(tmp_path / "run", run__dry_run="true", run__init_from=source, data__resolution=16)
    assert main(["train", *options]) == 0
    assert "  g mapping.fc0.weight: [8, 16] -> [8, 8], re-initialised\n" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def family_of(family: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "generator_ema.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"family": family}))

    return change


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "generator_ema.safetensors"
        save_file(change(load_file(file)), file)

    return apply


BAD = {
    "nothing there": (shutil.rmtree, "does not exist, expected a run folder, a checkpoint folder, a converted folder"),
    "no weights": (lambda p: [f.unlink() for f in p.glob("*")], "expected a run folder, a checkpoint folder or"),
    "another family": (family_of("denoiser"), "is of the family denoiser, expected gan.family stylegan2"),
    "no arguments": (lambda p: (p / "generator_ema.json").unlink(), "generator_ema.json"),
    "no JSON": (lambda p: (p / "generator_ema.json").write_text("[]"), "holds no arguments of a network"),
    "damaged": (lambda p: (p / "generator_ema.safetensors").write_bytes(b"x" * 99), "expected a run folder"),
    "not finite": (
        tensors(lambda state: {name: value * float("nan") for name, value in state.items()}),
        "has numbers that are not finite, expected weights that training can go on from",
    ),
    "other networks": (
        tensors(lambda state: {f"x{name}": value for name, value in state.items()}),
        "no parameter of g has a name and shape of this run's, expected weights of similar networks",
    ),
    "no generator": (
        lambda p: [f.rename(f.with_stem("discriminator")) for f in p.glob("generator_ema.*")],
        "holds d, expected weights of g",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_weights_are_one_line(name: str, source: Path, tiny_options: Options, tmp_path: Path) -> None:
    spoil, expected = BAD[name]
    folder = exported(source, tmp_path / "weights", {"generator_ema": "g/module/"})
    spoil(folder)
    with pytest.raises(UserError, match=r"\Arun.init_from") as error:
        new(tiny_options(tmp_path / "run", **TEN_CLASSES), folder)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_bad_weights_stop_a_run_before_it_has_a_folder(
    source: Path, tiny_options: Options, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = Path(shutil.copytree(find_checkpoint(source), tmp_path / "000000.016"))
    with (checkpoint / "state.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    assert main(["train", *tiny_options(tmp_path / "run", run__init_from=checkpoint, **TEN_CLASSES)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"run.init_from: {checkpoint}: state.safetensors is damaged" in line
    assert not (tmp_path / "run").exists()


FILES = {
    "stylegan2_ada/skip_orig_cond10_fp16.pkl": dict(
        gan__architecture_d="orig", gan__d_mapping_layers=8, gan__mbstd_channels=1
    ),
    "smart/stylegan2_uncond.pth": dict(data__labels="false"),
}


R3GAN = {
    "gan.family": "r3gan",
    "gan.z_dim": 8,
    "gan.widths": "[12, 8]",
    "gan.cardinalities": "[3, 2]",
    "gan.blocks": "[1, 1]",
    "data.path": "digits",
    "data.resolution": 8,
    "data.labels": "true",
    "smart.frequency": 0,
}


@pytest.mark.parametrize("is_converted", [False, True])
def test_a_file_of_r3gan(is_converted: bool, tmp_path: Path) -> None:
    """Of RGB images, into a run of grey ones with the same settings: all but the layers at the image."""
    path = FIXTURES / "files/r3gan/cond10.pkl"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    models = read_gan(path).models
    if is_converted:
        path = convert(ConvertOptions(source=str(path), out=str(tmp_path / "converted")))
    training, said = new([f"--{name}={value}" for name, value in R3GAN.items()], path)
    here = training.state()
    for prefix, role in {"ema/": "generator_ema", "g/module/": "generator", "d/module/": "discriminator"}.items():
        there = models[role].tensors
        mine = {name.removeprefix(prefix) for name in here if name.startswith(prefix)}
        anew = {name for name in mine if not torch.equal(here[prefix + name], there[name])}
        assert anew == {f"Model.{'Extraction' if role == 'discriminator' else 'Aggregation'}Layer.Layer.weight"}
    assert "options that differ (there -> here): channels 3 -> 1\n" in f"{said}\n"
    assert is_converted or "trained on 0.512 kimg" in said


def test_a_file_of_another_family_is_named(tmp_path: Path) -> None:
    file = tmp_path / "network.pt"
    torch.save({"G_ema": R3Gan.build(4, widths=[4], cardinalities=[2], blocks=[1]).state_dict()}, file)
    with pytest.raises(UserError, match="network.pt is of the family r3gan, expected gan.family stylegan2"):
        read_weights(str(file), FAMILIES["stylegan2"])


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_project(file: str, tiny_options: Options, tmp_path: Path) -> None:
    """Of RGB images, into a run of grey ones with the same settings: all but the layers at the image."""
    path = FIXTURES / "files" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    models = read_gan(path).models
    sizes = {name: models["generator"].options[name] for name in ("z_dim", "w_dim", "channel_base", "mapping_layers")}
    changes = TEN_CLASSES | {f"gan__{name}": value for name, value in sizes.items()} | FILES[file]
    training, said = new(tiny_options(tmp_path / "run", **changes), path)
    here = training.state()
    for prefix, role in {"ema/": "generator_ema", "g/module/": "generator", "d/module/": "discriminator"}.items():
        there = models[role].tensors if role in models else {}
        mine = {name.removeprefix(prefix) for name in here if name.startswith(prefix)}
        anew = {n for n in mine if n not in there or not torch.equal(here[prefix + n], there[n])}
        assert not there or (anew and all(name.rpartition(".")[0].endswith(("torgb", "fromrgb")) for name in anew))
    assert ("none, starts anew" in said) == ("discriminator" not in models)


def test_a_family_without_foreign_formats_refuses_their_files(tmp_path: Path) -> None:
    file = tmp_path / "network.pkl"
    file.write_bytes(b"\x80\x04.")
    assert Family.foreign_weights(file) is None
    with pytest.raises(UserError, match="no file that gan.family denoiser starts from"):
        read_weights(str(file), FAMILIES["denoiser"])


DENOISER = {
    "gan.family": "denoiser",
    "data.path": "digits",
    "data.resolution": 8,
    "gan.block_out_channels": "[4, 8]",
    "gan.layers_per_block": 1,
    "gan.attention": "[4]",
    "gan.attention_head_dim": 4,
    "gan.norm_groups": 2,
    "smart.frequency": 0,
}


ADM = {"gan.network": "adm", "gan.block_out_channels": "[32, 32]", "gan.norm_groups": 32}
DENOISERS = {
    "unet2d": (DENOISER, "unet.class_embedding.weight: [10, 16]", "unet.num_class_embeds 10 -> None"),
    "adm": (DENOISER | ADM, "unet.label_emb.weight: [10, 128]", "unet.num_classes 10 -> None"),
}
"""Settings, then what a model without classes leaves out of one with ten, and in which option they differ."""


@pytest.mark.parametrize("network", DENOISERS)
def test_a_diffusion_model_starts_from_the_folder_of_a_scorer(network: str, tmp_path: Path) -> None:
    settings, skipped, differs = DENOISERS[network]
    options = [f"--{name}={value}" for name, value in settings.items()]
    other, _ = new([*options, "--run.seed=1", "--data.labels=true"])
    other.family.export(tmp_path, other.family.denoiser.state_dict())
    training, said = new(options, tmp_path / "scorer")
    there, here = other.state(), training.state()
    names = [name for name in here if name.startswith(("denoiser/module/", "ema/"))]
    assert names and [name for name in names if not torch.equal(here[name], there[name])] == []
    assert f"  denoiser {skipped} -> none, skipped\n" in said
    assert f"options that differ (there -> here): {differs}\n" in said
    assert training.family.average_step(0, 8) == pytest.approx(1e-4)  # loss.ema_decay 0.9999, from the first step on


UNET = UNetOptions(block_out_channels=(4, 8), layers_per_block=1, attention=(4,), attention_head_dim=4, norm_groups=2)


def test_train_scorer_has_the_setting(tmp_path: Path) -> None:
    options = TrainScorerOptions(
        dir=str(tmp_path / "run"), data=DataConfig(resolution=8), unet=UNET, init_from="nowhere"
    )
    with pytest.raises(UserError, match=r"\Ainit_from: nowhere does not exist, expected a run folder"):
        train_scorer(options)
