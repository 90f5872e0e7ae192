"""Forms of a setting: groups as a whole, dotted keys, empty ones, and a run's own folder beside other values of it."""

from pathlib import Path

import pytest

from smartfast.config.parse import parse_config
from smartfast.errors import UserError


def file(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "form",
    [
        ["--gan.family=vae"],
        ["--gan.family", "vae"],
        ["--gan", "{family: vae}"],
        ['--gan={"family": "vae", "z_dim": 8}'],
        ["--run.dry_run", "--gan.family=vae"],
    ],
)
def test_the_family_in_every_form_of_the_command_line(form: list[str]) -> None:
    assert parse_config(form).gan.family == "vae"


@pytest.mark.parametrize("text", ["gan: {family: vae}", "gan.family: vae", "gan:\n  family: vae\nrun.kimg: 3"])
def test_the_family_in_every_form_of_a_file(text: str, tmp_path: Path) -> None:
    assert parse_config([f"--config={file(tmp_path / 'x.yaml', text)}"]).gan.family == "vae"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run:\nsmart:\n  frequency: 4\n", "run is empty, expected settings below it"),
        ("smart: {frequency: 4, scorer_options: }", "smart.scorer_options is empty"),
        ("run:", "run is empty"),
        ("", "is empty, expected groups of settings"),
        ("# run:\n", "is empty, expected groups of settings"),
    ],
)
def test_an_empty_group_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = file(tmp_path / "x.yaml", text)
    with pytest.raises(UserError, match=said) as error:
        parse_config(["--config", path])
    assert path in str(error.value) and "\n" not in str(error.value)


def test_a_null_that_is_a_value_stays_one(tmp_path: Path) -> None:
    config = parse_config(["--config", file(tmp_path / "x.yaml", "smart: {timesteps: null}\nrun: {max_hours: null}")])
    assert config.run.max_hours is None


@pytest.mark.parametrize("place", ["before", "behind", "group"])
def test_the_command_line_wins_over_the_folder_of_a_runs_own_file(place: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    own = file(tmp_path / "a" / "config.yaml", "run: {dir: somewhere, kimg: 5}")
    assert parse_config(["--config", own]).run.dir == str(tmp_path / "a")
    given = {
        "before": ["--run.dir=b", "--config", own],
        "behind": [f"--config={own}", "--run.dir", "b"],
        "group": ["--run", "{dir: b}", "--config", own],
    }
    config = parse_config(given[place])
    assert (config.run.dir, config.run.kimg) == ("b", 5)


def test_a_later_file_wins_over_the_folder_of_a_runs_own_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    own = file(tmp_path / "a" / "config.yaml", "run: {dir: somewhere}")
    mine = file(tmp_path / "mine.yaml", "run: {dir: from_mine}")
    other = file(tmp_path / "other.yaml", "run: {kimg: 7}")
    assert parse_config(["--config", own, "--config", mine]).run.dir == "from_mine"
    assert parse_config(["--config", mine, "--config", own]).run.dir == str(tmp_path / "a")
    assert parse_config(["--config", own, "--config", other]).run.dir == str(tmp_path / "a")
