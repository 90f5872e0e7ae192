"""The configuration on the command line and in YAML files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from smartfast.config.families import FAMILY_SETTINGS, FamilySettings
from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.parse import (
    CONFIGS,
    SCORER_CONFIGS,
    config_parser,
    config_to_yaml,
    load_config,
    parse_config,
    parse_options,
    presets,
)
from smartfast.config.schema import Config, DataConfig
from smartfast.errors import UserError
from smartfast.tools.train_scorer import TrainScorerOptions

PUBLIC_NAMES = {
    "run": "dir seed kimg tick_kimg snapshot_ticks dry_run",
    "data": "path resolution labels mirror",
    "loss": "r1_gamma r1_interval path_length_weight path_length_interval style_mixing_prob",
    "smart": "scorer weight timesteps frequency",
    "optim": "batch batch_gpu lr_g lr_d ema_kimg",
    "perf": "kernels precision compile cuda_graphs channels_last",
}


def test_names_that_scripts_rely_on() -> None:
    names = set(config_parser().hints())
    assert {f"{group}.{field}" for group, fields in PUBLIC_NAMES.items() for field in fields.split()} <= names
    assert {"config", "print_config", "gan", "metrics"} <= names


def test_every_option_is_explained() -> None:
    text = config_parser().format_help()
    for name in config_parser().hints():
        assert f"--{name}" in text
    actions = [a for a in config_parser()._actions if a.dest.count(".") == 1]
    assert len(actions) > 40 and all(a.help for a in actions)


@pytest.mark.parametrize("preset", sorted(p.stem for p in CONFIGS.glob("*.yaml")))
def test_presets_parse_and_name_no_default(preset: str) -> None:
    config = parse_config(["--config", preset])
    assert config != Config()
    assert parse_config(["--config", str(CONFIGS / f"{preset}.yaml")]) == config


def test_without_arguments_it_is_the_digits() -> None:
    assert parse_config([]) == parse_config(["--config", "digits"])


@pytest.mark.parametrize("option", [["--data.path", "x.zip"], ["--data.path=x.zip"], ['--data={"path": "x.zip"}']])
def test_own_data_start_from_the_defaults_of_the_schema(option: list[str]) -> None:
    assert parse_config(option) == Config(data=DataConfig(path="x.zip"))


@pytest.mark.parametrize("option", [["--config", "cifar10"], ["--config=cifar10"]])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_preset_is_not_hidden_by_what_bears_its_name(kind, option, tmp_path, monkeypatch) -> None:
    expected = parse_config(["--config", str(CONFIGS / "cifar10.yaml")])
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        (tmp_path / "cifar10").mkdir()
    else:
        (tmp_path / "cifar10").write_text("run:\n  kimg: 7\n")
        assert parse_config(["--config", "./cifar10"]).run.kimg == 7
    assert parse_config(option) == expected


@pytest.mark.parametrize(
    "words",
    [["0.5", "0.9"], ["0.5,0.9"], ["[0.5,", "0.9]"], ["[0.5, 0.9]"]],
    ids=" ".join,
)
def test_a_list_in_words(words: list[str]) -> None:
    assert parse_config(["--optim.betas", *words, "--run.kimg=7"]).optim.betas == (0.5, 0.9)
    assert parse_config(["--metrics.names", "fid"]).metrics.names == ("fid",)
    assert parse_config(["--smart.timesteps", "null"]).smart.timesteps is None


def test_a_word_too_many_is_refused() -> None:
    with pytest.raises(UserError, match="optim.betas"):
        parse_config(["--optim.betas", "0.5", "0.9", "0.99"])


@pytest.mark.parametrize("name", presets(SCORER_CONFIGS))
@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_a_preset_of_train_scorer_goes_by_its_name(name: str, form: list[str]) -> None:
    found, expected = (
        parse_options(
            TrainScorerOptions,
            ["--kimg=7", *(part.format(file) for part in form)],
            command="train-scorer",
            folder=SCORER_CONFIGS,
        )
        for file in (name, SCORER_CONFIGS / f"{name}.yaml")
    )
    assert found == expected != TrainScorerOptions(kimg=7) and found.kimg == 7


@dataclass(frozen=True)
class LineGan(GanSettings):
    """Another family's networks."""

    family: Literal["line"] = "line"
    length: int = 5


def test_another_familys_settings_start_from_their_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The preset of digits names StyleGAN2's settings."""
    monkeypatch.setitem(FAMILY_SETTINGS, "line", FamilySettings(LineGan, LossSettings))
    config = parse_config(["--gan.family=line", "--gan.length=7", "--data.path=digits"])
    assert config == Config(gan=LineGan(length=7), loss=LossSettings())
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_overrides_and_round_trip(tmp_path: Path) -> None:
    config = parse_config(["--smart.frequency", "4", "--smart.timesteps", "[3, 9]", "--optim.batch_gpu=8"])
    assert (config.smart.frequency, config.smart.timesteps, config.optim.batch_gpu) == (4, (3, 9), 8)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert yaml.safe_load(config_to_yaml(config))["smart"]["timesteps"] == [3, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smart.freqency", "4"], "smart.freqency: there is no such option; did you mean smart.frequency?"),
        (["--optim.lrg=0.1"], "optim.lrg: there is no such option; did you mean optim.lr_g?"),
        (["--run.kimg", "many"], "run.kimg"),
        (["--smart.timesteps", "[1]"], "smart.timesteps"),
        (["--gan.architecture_d", "vgg"], "gan.architecture_d"),
        (["--config", "nonsense"], "--config nonsense: no such file; the presets are"),
        (["--config", "/"], "--config /: no such file; the presets are"),
        (["--gan.family=x", "--config=biggan_cifar10"], "gan.family is x, expected one of aurora, biggan"),
        (["--gan.family=aurora", "--config=digits"], "gan.noise: an option of gan.family stylegan2, not of aurora (in"),
        (
            ["--gan.family=biggan", "--config=digits"],
            "; expected --config biggan_cifar10, biggan_digits, biggan_imagenet128, or none",
        ),
        (["--gan.family=denoiser", "--config=digits"], "; expected no --config"),
        (["--gan.family=aurora", "--config=biggan_cifar10"], "gan.family is aurora, expected biggan with "),
        (
            ["--gan.family=aurora", "--gan.noise=true"],
            "gan.noise: an option of gan.family stylegan2, not of aurora; `smartfast train --gan.family aurora --help`",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_misspelt_key_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("smart:\n  freqency: 3\n")
    with pytest.raises(
        UserError, match=r"smart.freqency: there is no such option; did you mean smart.frequency\? \(in .*x.yaml\)$"
    ):
        parse_config(["--config", str(tmp_path / "x.yaml")])
    (tmp_path / "x.yaml").write_text("smrt:\n  frequency: 3\n")
    with pytest.raises(UserError, match="smrt.frequency: there is no such option; did you mean smart.frequency"):
        parse_config(["--config", str(tmp_path / "x.yaml")])


@pytest.mark.parametrize("command", ["train", "options"])
@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_command_line_wins_over_files_whatever_the_order(command, form, place, tmp_path) -> None:
    text = "run: {kimg: 7, seed: 7}" if command == "train" else "kimg: 7\nseed: 7"
    (tmp_path / "x.yaml").write_text(text)
    prefix = "run." if command == "train" else ""
    options = [[f"--{prefix}kimg=5"], [f"--{prefix}holdout=3" if not prefix else "--data.holdout=3"]]
    options.insert(place, [part.format(tmp_path / "x.yaml") for part in form])
    arguments = [argument for option in options for argument in option]
    found = parse_config(arguments).run if prefix else parse_options(TrainScorerOptions, arguments, command="x")
    assert (found.kimg, found.seed) == (5, 7)


def test_of_two_files_the_later_one_wins(tmp_path: Path) -> None:
    for name, text in {"a.yaml": "run: {kimg: 1, seed: 1}", "b.yaml": "run: {kimg: 2}\ngan: {z_dim: 9}"}.items():
        (tmp_path / name).write_text(text)
    files = [f"--config={tmp_path / name}" for name in ("a.yaml", "b.yaml")]
    config = parse_config([files[0], "--gan.z_dim=3", files[1]])
    assert (config.run.kimg, config.run.seed, config.gan.z_dim) == (2, 1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:\n  kimg: 5\n  seed: 1\n  kimg: 6\n", "x.yaml: kimg is given twice, the second time in line 4"),
        (
            "run:\n  kimg: 5\ngan:\n  z_dim: 3\nrun:\n  seed: 1\n",
            "x.yaml: run is given twice, the second time in line 5",
        ),
        ('{"run": {"kimg": 5, "kimg": 6}}', "x.yaml: kimg is given twice, the second time in line 1"),
        (
            "optim:\n  lr_g: {kind: linear, kimg: [0], values: [1], kimg: [1]}",
            "x.yaml: kimg is given twice, the second time in line 2",
        ),
        ("run: [", "x.yaml is no YAML ("),
        ("run: !!python/object/apply:os.system [ls]", "x.yaml is no YAML ("),
        ("run: 2024-99-99", "x.yaml is no YAML ("),
        ("run: !!timestamp x", "x.yaml is no YAML ("),
        ("- run", "x.yaml holds list, expected groups of settings"),
        ("run: &a\n  kimg: *a\n", "run.kimg is "),
        ("run: " + "[" * 5000, "x.yaml is no YAML ("),
        ("\udcff", "x.yaml is no YAML ("),
        ("run: {a b: 1}", "x.yaml)"),
        ("a b: 1", "x.yaml)"),
        ("run: {kimg: [5]}", "run.kimg is [5], expected a number from 0.001 to 1e9"),
        ("metrics: {names: kid}", "metrics.names is kid, expected a list [a, b, ...], each one of fid, kid"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        parse_config([f"--config={tmp_path / 'x.yaml'}"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "group", "name", "value"),
    [
        (["--metrics.names", "kid"], "metrics", "names", ("kid",)),
        (["--metrics.names=kid,fid"], "metrics", "names", ("kid", "fid")),
        (["--metrics.names", "[kid, fid]"], "metrics", "names", ("kid", "fid")),
        (["--optim.betas", "0.5,0.9"], "optim", "betas", (0.5, 0.9)),
        (["--smart.timesteps", "3,9"], "smart", "timesteps", (3, 9)),
        (["--smart.noise_to_signal", "null"], "smart", "noise_to_signal", None),
        (["--run.dir", "a,b"], "run", "dir", "a,b"),
    ],
)
def test_lists_need_no_brackets(arguments: list[str], group: str, name: str, value: object) -> None:
    assert getattr(getattr(parse_config(arguments), group), name) == value


@pytest.mark.parametrize(
    "line", ["--run.dry_run --run.kimg 5", "--run.kimg 5 --run.dry_run", "--run.kimg=5 --run.dry_run"]
)
def test_a_switch_alone_is_true(line: str) -> None:
    config = parse_config(line.split())
    assert config.run.dry_run is True and config.run.kimg == 5
    assert parse_config([*line.split(), "--run.dry_run", "false"]).run.dry_run is False
    with pytest.raises(UserError, match="run.seed"):
        parse_config(["--run.seed"])
