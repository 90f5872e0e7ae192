"""Where ada begins and how fast it moves in a run that starts from other weights."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smartfast.config.parse import parse_config
from smartfast.config.schema import Config
from smartfast.core.checkpoint import find_checkpoint, save_checkpoint
from smartfast.data import RealBatch, open_dataset
from smartfast.run.checks import check_settings
from smartfast.run.resume import changes
from smartfast.run.start import start_elsewhere, with_transfer_values
from smartfast.run.training import Training
from smartfast.tools.convert import ConvertOptions, convert

Options = Callable[..., list[str]]
FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
ADA = dict(augment__mode="ada", augment__interval=1, augment__target=-1)
"""p rises at every step: no mean of signs is below -1."""


def settings(options: Options, folder: Path, **changed: object) -> Config:
    return with_transfer_values(parse_config(options(folder, **changed)))


def new(options: Options, folder: Path, **changed: object) -> tuple[Training, str]:
    """A run at its start, and what it said."""
    config, said = settings(options, folder, **changed), []
    training = Training(config, open_dataset(config.data), device=torch.device("cpu"))
    start_elsewhere(training, said.append)
    return training, "\n".join(said)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> Path:
    """A run whose p has come to 0.37."""
    folder = tmp_path_factory.mktemp("source") / "run"
    training, _ = new(tiny_options, folder, augment__p=0.37, **ADA)
    state, family = training.state(), training.family
    options = {"family": family.name, **family.options()}
    folder.mkdir()
    weights = training.averaged_weights(state)
    save_checkpoint(folder, images=8, state=state, generator=weights, generator_options=options, info={}, keep=1)
    return folder


@pytest.mark.parametrize(
    ("changed", "p", "words"),
    [
        ({}, 0.37, "p begins at 0.37, where it was there, and moves by 1 in 100 kimg"),
        ({"augment__p": 0.1}, 0.1, "p begins at 0.1 (augment.p) and moves by 1 in 100 kimg"),
        ({"augment__p": 0}, 0, "p begins at 0 (augment.p) and moves by 1 in 100 kimg"),
        ({"augment__max_p": 0.25, "augment__kimg": 500}, 0.25, "p begins at 0.25, where it was there, and moves"),
    ],
)
def test_p_begins_where_it_was(
    changed: dict, p: float, words: str, source: Path, tiny_options: Options, tmp_path: Path
) -> None:
    training, said = new(tiny_options, tmp_path / "run", run__init_from=source, **ADA | changed)
    assert training.state()["augment_p"].item() == pytest.approx(p)
    assert words in said


def test_a_new_discriminator_begins_without_augmentation(source: Path, tiny_options: Options, tmp_path: Path) -> None:
    average = shutil.copytree(find_checkpoint(source), tmp_path / "weights") / "generator_ema.safetensors"
    assert load_file(average)
    for start in (average, source):
        mode = "ada" if start == average else "off"
        training, said = new(tiny_options, tmp_path / "run", run__init_from=start, augment__mode=mode)
        assert training.state().get("augment_p", torch.zeros([])).item() == 0
        assert ("p begins at 0 (augment.p)" in said) == (mode == "ada")


@pytest.mark.parametrize(
    ("is_transfer", "kimg", "moves_in"), [(True, None, 100), (True, 500, 500), (False, None, 500), (False, 50, 50)]
)
def test_p_moves_as_in_stylegan2_ada(
    is_transfer: bool, kimg: float | None, moves_in: float, source: Path, tiny_options: Options, tmp_path: Path
) -> None:
    changed = ADA | ({"augment__kimg": kimg} if kimg else {}) | ({"run__init_from": source} if is_transfer else {})
    training, _ = new(tiny_options, tmp_path / "run", **changed)
    before = training.state()["augment_p"].item()
    images = torch.rand(8, *training.family.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    training.run_iteration(RealBatch(images, None))
    moved = training.state()["augment_p"].item() - before
    assert moved == pytest.approx(8 / (moves_in * 1000), rel=1e-3)  # one step of 8 images; p is a float32


@pytest.mark.parametrize("is_converted", [False, True])
def test_a_file_of_nvidia_says_its_p(is_converted: bool, tiny_options: Options, tmp_path: Path) -> None:
    path = FIXTURES / "files/stylegan2_ada/skip_resnet_uncond.pkl"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set SMARTFAST_FIXTURES)")
    if is_converted:
        path = convert(ConvertOptions(source=str(path), out=str(tmp_path / "converted")))
    sizes = dict(gan__z_dim=16, gan__w_dim=16, gan__channel_base=128, gan__channel_max=16)
    training, said = new(tiny_options, tmp_path / "run", run__init_from=path, **ADA | sizes)
    assert training.state()["augment_p"].item() == pytest.approx(0.35)
    assert "p begins at 0.35, where it was there" in said


@pytest.mark.parametrize("mode", ["off", "fixed", "ada"])
def test_an_unset_speed_is_the_500_of_older_runs(mode: str, tiny_options: Options, tmp_path: Path) -> None:
    changed = dict(augment__mode=mode) | (dict(augment__p=0.2) if mode == "fixed" else {})
    unset, explicit = (settings(tiny_options, tmp_path, **changed, **kimg) for kimg in ({}, {"augment__kimg": 500}))
    assert unset == explicit == with_transfer_values(unset) and changes(explicit, unset) == []
    check_settings(unset, num_processes=1)
