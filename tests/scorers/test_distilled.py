"""A distilled scorer says what it has learnt, and is used for nothing else."""

import json
import re

import pytest
import torch

from smartfast.config.schema import SmartConfig
from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer, check_predictions, load_scorer, timestep_range
from smartfast.scorers.distilled import read_learnt_interval, write_learnt_interval
from smartfast.scorers.schedule import schedule_from_config


@pytest.fixture
def scorer() -> GaussianMixtureScorer:
    found = GaussianMixtureScorer(schedule_from_config({}, "test"), torch.zeros(1, 1, 4, 4), torch.ones(1))
    found.learnt_interval = (0.1, 0.5)
    return found


def test_what_is_written_is_what_a_loaded_scorer_knows(scorer_folder) -> None:
    folder, _ = scorer_folder()
    assert load_scorer(str(folder)).learnt_interval is None
    write_learnt_interval(folder, "digits", (0.095, 0.96))
    assert load_scorer(str(folder)).learnt_interval == (0.095, 0.96)
    assert json.loads((folder / "distilled.json").read_text())["teacher"] == "digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds '[]', expected an object of fields"),
        ("{}", "noise_to_signal is [], expected two numbers 0 < low <= high"),
        ('{"noise_to_signal": [0.2, 0.1]}', "noise_to_signal is [0.2, 0.1], expected two numbers"),
        ('{"noise_to_signal": [0.2, Infinity]}', "noise_to_signal is [0.2, inf], expected two numbers"),
        ('{"noise_to_signal": ["a", 1]}', "noise_to_signal is ['a', 1], expected"),
    ],
)
def test_a_file_that_says_something_else(tmp_path, content: str, message: str) -> None:
    (tmp_path / "distilled.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_learnt_interval(tmp_path)
    assert "\n" not in str(error.value) and "distilled.json" in str(error.value)


@pytest.mark.parametrize("wide", [dict(noise_to_signal=(0.05, 0.5)), dict(noise_to_signal=(0.1, 0.6))])
def test_a_wider_interval_is_refused(scorer, wide) -> None:
    message = r"sigma/alpha = .*, expected sigma/alpha within 0.1..0.5, all that this distilled scorer has learnt"
    with pytest.raises(UserError, match=message):
        timestep_range(scorer, SmartConfig(**wide))
    assert timestep_range(scorer, SmartConfig(**wide, self_check=False)).first > 0


def test_its_own_interval_is_not(scorer) -> None:
    found = timestep_range(scorer, SmartConfig(noise_to_signal=(0.1, 0.5)))
    scorer.learnt_interval = (found.noise_to_signal_low, found.noise_to_signal_high)
    assert timestep_range(scorer, SmartConfig(timesteps=(found.first, found.last))) == found
    with pytest.raises(UserError, match="smart.timesteps, smart.noise_to_signal: t = "):
        timestep_range(scorer, SmartConfig(timesteps=(found.first - 1, found.last)))


def test_the_self_check_asks_nothing_beside_it(scorer, monkeypatch) -> None:
    asked: list[torch.Tensor] = []
    network = type(scorer).network

    def listen(self, x_t, t, labels):
        asked.append(t)
        return network(self, x_t, t, labels)

    monkeypatch.setattr(type(scorer), "network", listen)
    interval = timestep_range(scorer, SmartConfig(noise_to_signal=(0.1, 0.5)))
    images = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    check_predictions(scorer, interval, images, None, name="mine", compare_readings=True)
    nearest = (interval.first - 1, interval.last + 1)  # the one nearest to an end may lie just beyond it
    assert nearest[0] <= int(torch.cat(asked).min()) and int(torch.cat(asked).max()) <= nearest[1]
