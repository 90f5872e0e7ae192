"""The files that presets name: a line with page, size, licence and command where one is missing."""

from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.config.parse import CONFIGS, parse_config, presets
from smartfast.errors import UserError
from smartfast.networks.unets.published import PUBLISHED
from smartfast.scorers import load_scorer
from smartfast.scorers.loading import BUNDLED, missing_file
from smartfast.scorers.published import PUBLISHED_FILES, PUBLISHED_MODELS

SCORERS = {name: parse_config(["--config", name]).smart for name in presets()}
PRESETS = [
    name
    for name, smart in SCORERS.items()
    if smart.frequency and smart.scorer not in BUNDLED and not smart.scorer.startswith("plane:")
]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_a_published_scorer_and_its_terms(preset: str) -> None:
    name = SCORERS[preset].scorer
    file = PUBLISHED_MODELS.get(name) or PUBLISHED_FILES[Path(name).name]
    said = (CONFIGS / f"{preset}.yaml").read_text()
    assert file.page in said and f"({file.size}, {file.licence.partition(',')[0]}" in said
    assert name in PUBLISHED_MODELS or f"-o {name} \\\n#   {file.url}\n" in said


def test_a_preset_without_a_published_scorer_has_none() -> None:
    without_term = {name: smart.scorer for name, smart in SCORERS.items() if not smart.frequency}
    assert without_term == {"r3gan_imagenet32": None, "consistency_digits": "digits"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "scorers/edm-cifar10-32x32-cond-vp.pkl",
            "EDM of CIFAR-10 with classes, 223 MB, licence CC BY-NC-SA 4.0, for non-commercial use, see "
            "https://github.com/NVlabs/edm: curl -L --create-dirs -o scorers/edm-cifar10-32x32-cond-vp.pkl "
            "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-cond-vp.pkl",
        ),
        (
            "scorers/64x64_diffusion.pt",
            "ADM of ImageNet at 64 pixels with classes, 1.2 GB, licence MIT, see "
            "https://github.com/openai/guided-diffusion: curl -L --create-dirs -o scorers/64x64_diffusion.pt "
            "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/64x64_diffusion.pt",
        ),
        (
            "adm:my files/lsun_bedroom.pt",
            "ADM of LSUN Bedroom at 256 pixels, 2.2 GB, licence MIT, see https://github.com/openai/guided-diffusion: "
            "curl -L --create-dirs -o 'my files/lsun_bedroom.pt' "
            "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/lsun_bedroom.pt",
        ),
    ],
)
def test_a_missing_file_is_a_line_that_gets_it(name: str, expected: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = name.removeprefix("adm:")
    with pytest.raises(UserError) as error:
        load_scorer(name)
    assert str(error.value) == f"smart.scorer: {path} does not exist; get {expected}"
    Path(path).parent.mkdir()
    Path(path).touch()
    assert missing_file(name) is None


def test_a_model_of_the_hub_without_internet(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        load_scorer("google/ddpm-bedroom-256")
    assert str(error.value).endswith(
        "elsewhere get DDPM of LSUN Bedroom at 256 pixels, 455 MB, licence Apache-2.0, see "
        "https://huggingface.co/google/ddpm-bedroom-256: "
        "hf download google/ddpm-bedroom-256 --local-dir scorers/ddpm-bedroom-256"
    )


def test_the_published_files_are_ones_whose_network_is_known() -> None:
    assert {Path(name).stem for name in PUBLISHED_FILES} <= PUBLISHED.keys()
    assert missing_file("nowhere/other.pt") is None and missing_file("digits") is None


def test_a_run_whose_scorer_is_missing_is_described_and_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    name = "scorers/64x64_diffusion.pt"
    command = ["train", "--config=digits", "--run.dir=run", f"--smart.scorer={name}", "--run.tracker=none"]
    assert main([*command, "--run.dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert f"score term: not described, smart.scorer {name} is not there; get {missing_file(name)}\n" in said
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == f"smartfast: error: smart.scorer: {name} does not exist; get {missing_file(name)}"
    assert not list(tmp_path.iterdir())
