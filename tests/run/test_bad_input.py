"""Bad input to `smartfast train`: one line that names the setting or file and what was expected, before training."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from smartfast.cli import main
from smartfast.families import FAMILIES
from smartfast.scorers import load_scorer

pytestmark = pytest.mark.usefixtures("own_cache")  # what is found in its images is of no use to anybody else


def images(folder: Path, size: int = 16, count: int = 4, mode: str = "L") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, (size, size), i * 20 if mode == "L" else (i * 20, 0, 0)).save(folder / f"{i}.png")
    return folder


def classes(folder: Path, count: int) -> Path:
    for i in range(count):
        images(folder / str(i))
    return folder


def wrong_size(p: Path) -> list[str]:
    Image.new("L", (24, 24)).save(images(p / "x") / "zz.png")
    return [f"--data.path={p / 'x'}", "--data.labels=false"]


def corrupt_image(p: Path) -> list[str]:
    (images(p / "x") / "2.png").write_bytes(b"not a picture")
    return [f"--data.path={p / 'x'}", "--data.labels=false"]


def no_labels(p: Path) -> list[str]:
    return [f"--data.path={images(p / 'x')}", "--data.labels=true"]


def label_out_of_range(p: Path) -> list[str]:
    folder = images(p / "x")
    labels = [[f"{i}.png", 0 if i else -1] for i in range(4)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return [f"--data.path={folder}", "--data.labels=true"]


def not_a_zip(p: Path) -> list[str]:
    (p / "x.zip").write_bytes(b"no zip")
    return [f"--data.path={p / 'x.zip'}"]


def empty_zip(p: Path) -> list[str]:
    zipfile.ZipFile(p / "x.zip", "w").close()
    return [f"--data.path={p / 'x.zip'}"]


def rgb_data_for_grey_scorer(p: Path) -> list[str]:
    folder = images(p / "x", mode="RGB")
    return ["--config=digits", f"--data.path={folder}", "--data.labels=false", "--gan.mbstd_by_class=false"]


def foreign_checkpoint(p: Path) -> list[str]:
    (p / "run").mkdir()
    (p / "run" / "config.yaml").write_text("gan:\n  z_dim: 32\n")
    from smartfast.core.checkpoint import save_checkpoint
    from smartfast.networks.stylegan2 import Generator

    options = dict(
        z_dim=4, c_dim=0, w_dim=4, resolution=8, channels=1, mapping_layers=1, channel_base=32, channel_max=4
    )
    save_checkpoint(
        p / "run",
        images=8,
        state={"a": torch.zeros(1)},
        generator=Generator(**options).state_dict(),
        generator_options=options,
        info={"time_sec": 0.0},
        keep=1,
    )
    return []


CASES = {
    "misspelt key": (["--smart.freqency=4"], "smart.freqency: there is no such option; did you mean smart.frequency?"),
    "wrong type": (["--run.kimg=many"], "run.kimg"),
    "missing config": (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
    "missing data": (["--data.path=/nowhere/at/all"], "/nowhere/at/all"),
    "wrong size": (wrong_size, "zz.png"),
    "corrupt image": (corrupt_image, "2.png"),
    "no labels": (no_labels, "labels"),
    "negative label": (label_out_of_range, "0.png"),
    "not a zip": (not_a_zip, "x.zip"),
    "empty zip": (empty_zip, "x.zip"),
    "resolution not a power of two": (["--data.resolution=24"], "expected a power of two"),
    "scorer missing": (["--smart.scorer=/nowhere/scorer"], "/nowhere/scorer"),
    "no scorer": (["--smart.scorer=null"], "smart.scorer is not set"),
    "own data alone": (
        lambda p: [f"--data.path={images(p / 'x')}"],
        "smart.scorer is not set, expected a diffusion model (or smart.frequency 0 to train without)",
    ),
    "own data and a scorer, without an interval": (
        lambda p: [
            f"--data.path={classes(p / 'x', 10)}",
            "--data.labels=true",
            "--smart.scorer=digits",
            "--run.dry_run=true",
        ],
        "smart.timesteps, smart.noise_to_signal: neither is set, expected exactly one of them, such as",
    ),
    "an option of other scorers": (
        ["--smart.scorer_options.heads=4"],
        "smart.scorer_options.heads is 4, expected unset: digits, of the format diffusers, is read with",
    ),
    "an option of scorers that is misspelt": (
        ["--smart.scorer_options.shedule=cosine"],
        "smart.scorer_options.shedule: there is no such option; did you mean smart.scorer_options.schedule?",
    ),
    "a schedule that is none": (
        ["--smart.scorer_options.schedule=sqrt"],
        "smart.scorer_options.schedule is sqrt, expected one of linear, scaled_linear, cosine",
    ),
    "a scorer read with another schedule": (
        ["--smart.scorer_options.schedule=cosine", "--perf.cpu_threads=1"],
        "smart.scorer: 'digits' finds noise clearly better with smart.scorer_options.schedule linear: 0.",
    ),
    "scorer of another resolution": (["--data.resolution=32"], "has resolution 16, expected the GAN's 32"),
    "scorer of other channels": (rgb_data_for_grey_scorer, "1 image channels, expected the GAN's 3"),
    "scorer with classes, GAN without": (
        ["--data.labels=false", "--gan.mbstd_by_class=false"],
        "10 classes, expected the GAN's 0",
    ),
    "empty timestep interval": (
        ["--smart.timesteps=[9, 3]", "--smart.noise_to_signal=null"],
        "smart.timesteps: 9, 3, expected 0 <= first <= last <= 999",
    ),
    "timestep outside the schedule": (
        ["--smart.timesteps=[900, 1200]", "--smart.noise_to_signal=null"],
        "smart.timesteps: 900, 1200, expected 0 <= first <= last <= 999",
    ),
    "both forms of the interval": (
        ["--smart.timesteps=[25, 35]"],
        "both are set, expected exactly one of them, the other null",
    ),
    "batch not divisible": (["--optim.batch_gpu=5"], "optim.batch_gpu is 5, expected a divisor of the"),
    "group not divisible": (["--gan.mbstd_group=5"], "gan.mbstd_group is 5, expected a divisor"),
    "more frozen layers than there are": (["--gan.freeze_d=8"], "gan.freeze_d is 8, expected at most 7, the discr"),
    "class groups without labels": (
        ["--gan.mbstd_by_class=true", "--data.labels=false", "--smart.frequency=0"],
        "gan.mbstd_by_class is true, expected data.labels true",
    ),
    "no fakes to score": (
        ["--smart.batch_fraction=0"],
        "smart.batch_fraction is 0, expected a number from 0.001 to 1",
    ),
    "scoring an enlarged image": (["--smart.downscale=0"], "smart.downscale is 0, expected a whole number from 1"),
    "a square that is larger than the image": (
        ["--smart.crop=17"],
        "smart.crop is 17, expected at most the resolution",
    ),
    "a square of a reduced image": (
        ["--smart.crop=8", "--smart.downscale=2"],
        "smart.crop is 8, expected unset with smart.downscale",
    ),
    "downscale that leaves a rest": (["--smart.downscale=3"], "smart.downscale is 3, expected a divisor of"),
    "scorer of the full resolution": (
        ["--smart.downscale=2"],
        "has resolution 16, expected the GAN's 16 divided by smart.downscale 2",
    ),
    "xformers without its kernels": (
        ["--perf.attention=xformers"],
        "perf.attention is xformers, expected auto or sdpa",
    ),
    "negative weight": (["--smart.weight=-1"], "smart.weight is -1"),
    "probability above one": (
        ["--loss.style_mixing_prob=1.5"],
        "loss.style_mixing_prob is 1.5, expected a number from 0 to 1",
    ),
    "negative seed": (["--run.seed=-1"], "run.seed is -1, expected a whole number from 0 to 4294967295"),
    "too many threads": (["--perf.cpu_threads=1000"], "perf.cpu_threads is 1000, expected at most the "),
    "path length on less than an image": (
        ["--loss.path_length_shrink=1000"],
        "loss.path_length_shrink is 1000, expected at most optim.batch 32",
    ),
    "a preset without its data": (
        ["--config=cifar10", "--data.path=datasets/x.zip"],
        "data.path: datasets/x.zip does not exist; make it of a folder, zip or npz of images with `smartfast dataset "
        "--source IMAGES --dest datasets/x.zip --resolution 32`",
    ),
    "other classes than the preset's": (["--data.classes=9"], "data.path digits: 10 classes, expected data.classes 9"),
    "the run in place of its scorer": (
        lambda p: [f"--smart.scorer={(p / 'r/scorer').mkdir(parents=True) or p / 'r'}"],
        "/r/scorer?",
    ),
    "digits of any size": (["--data.resolution=2048"], "data.resolution: 2048, expected 8 to 256 for the bundled dig"),
    "memory for weights": (["--gan.z_dim=1000000000"], "GiB: lower the resolution or the sizes in gan, such as gan.z_"),
    "memory that cannot be counted": (
        ["--gan.channel_max=2147483647", "--gan.channel_base=2147483647", "--gan.mbstd_channels=0"],
        "memory: at least inf GiB per process",
    ),
    "memory for images": (
        ["--optim.batch=1000000000", "--gan.mbstd_by_class=false"],
        "for 1000000000 images at a time), this machine has",
    ),
    "no metrics": (
        ["--metrics.names=[]"],
        "metrics.names is [], expected one or more of them, or metrics.every_ticks 0",
    ),
    "no threads": (["--perf.cpu_threads=0"], "perf.cpu_threads is 0"),
    "no mapping layers": (["--gan.mapping_layers=0"], "gan.mapping_layers is 0"),
    "beta of one": (["--optim.betas=[0.0, 1.0]"], "optim.betas is [0.0, 1.0], expected"),
    "schedule without an end": (
        ["--optim.lr_g={kind: cosine, kimg: [0, 10], values: [1]}"],
        "optim.lr_g is a schedule of 2 kimg and 1 values, expected as many",
    ),
    "schedule of another kind": (["--loss.r1_gamma={kind: sine, kimg: [0], values: [1]}"], "loss.r1_gamma"),
    "schedule that ends beyond": (
        ["--optim.betas=[0.0, {kind: linear, kimg: [0, 10], values: [0.9, 1.0]}]"],
        "optim.betas is 1.0, expected a number of at least 0 and below 1",
    ),
    "another family": (["--gan.family=gpt"], f"gan.family is gpt, expected one of {', '.join(FAMILIES)}"),
    "a diffusion model with a score term": (
        ["--gan.family=denoiser", "--smart.frequency=8"],
        "smart.frequency is 8, expected 0, or 1 to learn from smart.scorer",
    ),
    "statistics that do not divide": (["--gan.mbstd_channels=3"], "expected a divisor of the 64 feature maps"),
    "no length": (["--run.kimg=0"], "run.kimg is 0"),
    "CUDA graphs": (["--perf.cuda_graphs=true"], "perf.cuda_graphs is true"),
    "unknown metric": (["--metrics.names=[nonsense]"], "metrics.names"),
    "another run's folder": (foreign_checkpoint, "gan.z_dim is 64, but the run in"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CASES)
def test_one_line_before_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments, expected = CASES[name]
    if callable(arguments):
        arguments = arguments(tmp_path)
    assert main(["train", f"--run.dir={tmp_path / 'run'}", "--run.tracker=none", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("smartfast: error: ") and expected in error
    assert not list((tmp_path / "run").glob("metrics.jsonl"))


def test_own_data_without_the_score_term_fit_the_defaults(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [f"--data.path={images(tmp_path / 'x', mode='RGB')}", "--smart.frequency=0", "--run.dry_run=true"]
    assert main(["train", *options]) == 0
    assert "score term: off" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["trian"]) == 2
    assert "trian: there is no such command, expected one of train" in capsys.readouterr().err


def test_bundled_scorer_fits_the_default_run() -> None:
    scorer = load_scorer("digits")
    assert (scorer.resolution, scorer.channels, scorer.num_classes) == (16, 1, 10)
