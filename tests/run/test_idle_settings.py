"""Settings that do nothing beside the others are named, those that count are not."""

import warnings

import pytest

from smartfast.config.families import UNetOptions
from smartfast.config.parse import CONFIGS, parse_config
from smartfast.config.schema import Config
from smartfast.run.checks import check_settings
from smartfast.tools.train_scorer import TrainScorerOptions, config_of

PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def said_of(config: Config) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_settings(config, num_processes=1)
    return [str(warning.message) for warning in caught]


def said(options: list[str]) -> list[str]:
    return said_of(parse_config(options))


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_sets_what_does_nothing(preset: str) -> None:
    assert said([f"--config={preset}"]) == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--config=biggan_digits", "--optim.ema_kimg=500"], "optim.ema_kimg"),
        (["--config=r3gan_digits", "--loss.step=0.1"], "loss.step"),
        (["--gan.family=denoiser", "--smart.frequency=0", "--optim.ema_kimg=500"], "optim.ema_kimg"),
    ],
)
def test_what_does_nothing_is_named(options: list[str], name: str) -> None:
    (line,) = said(options)
    assert line.startswith(f"{name} is set but does nothing here: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--config=digits", "--optim.ema_kimg=500"],
        ["--config=r3gan_digits", "--loss.step=0.1", "--loss.penalty=finite_difference"],
    ],
)
def test_what_counts_is_not(options: list[str]) -> None:
    assert said(options) == []


def test_a_student_draws_its_noise_by_its_teachers_interval() -> None:
    edm = dict(unet=UNetOptions(network="edm", attention_head_dim=64), ln_sigma_mean=0.5)
    assert said_of(config_of(TrainScorerOptions(**edm))) == []
    (line,) = said_of(config_of(TrainScorerOptions(teacher="digits", interval=(0.1, 0.5), holdout=9, **edm)))
    assert line.startswith("loss.ln_sigma_mean is set but does nothing here: ")
