"""Every number of every command has a range, all of which is finite, and whatever lies outside is one line."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from smartfast.config.families import FAMILY_SETTINGS
from smartfast.config.parse import config_parser, config_to_yaml, options_parser, parse_config, parse_options
from smartfast.config.ranges import in_range
from smartfast.config.schedule import Schedule
from smartfast.config.schema import Config, MetricsConfig, OptimConfig, RunConfig
from smartfast.errors import UserError
from smartfast.tools.dataset import DatasetOptions
from smartfast.tools.evaluate import EvaluateOptions
from smartfast.tools.generate import GenerateOptions
from smartfast.tools.interpolate import InterpolateOptions
from smartfast.tools.train_scorer import TrainScorerOptions

OPTIONS = [GenerateOptions, InterpolateOptions, EvaluateOptions, DatasetOptions, TrainScorerOptions]
VALUES = [
    "nan",
    "inf",
    "-inf",
    "0",
    "-1",
    "1e-30",
    "1e30",
    str(2**40),
    "1e400",
    "0.5",
    "",
    "word",
    "[1, [2]]",
    "{a: 1}",
]
PARSERS = {f"train, {family}": config_parser(family=family) for family in FAMILY_SETTINGS} | {
    options.__name__: options_parser(options, command="x") for options in OPTIONS
}
ALL = [(command, name) for command, parser in PARSERS.items() for name, hint in parser.hints().items() if hint]


def parts(hint: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    yield hint
    for part in get_args(hint):
        yield from parts(part)


@pytest.mark.parametrize(("command", "name"), ALL)
def test_numbers_state_their_range(command: str, name: str) -> None:
    assert not {int, float} & {part for part in parts(PARSERS[command].hints()[name]) if isinstance(part, type)}


@pytest.mark.sample(3)
@pytest.mark.parametrize(("command", "name"), ALL)
def test_any_value_is_taken_or_answered_with_one_line(command: str, name: str) -> None:
    parser = PARSERS[command]
    needed = ["--checkpoint=x"] if "checkpoint" in parser.hints() else []
    needed = ["--source=x", "--dest=y.zip"] if "source" in parser.hints() else needed
    for value in VALUES:
        try:
            parsed = parser.parse([*needed, f"--{name}={value}"])
        except UserError as error:
            assert str(error).startswith(f"{name} is ") and ", expected " in str(error) and "\n" not in str(error)
            continue
        for part in name.split("."):
            parsed = getattr(parsed, part)
        assert not isinstance(parsed, float) or -1e30 < parsed < 1e30
        assert not isinstance(parsed, int) or abs(parsed) <= 2**64


def test_the_walk_meets_every_command() -> None:
    assert len(ALL) * len(VALUES) > 2000 and {command for command, _ in ALL} == set(PARSERS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--run.kimg=nan"], "run.kimg is nan, expected a number from 0.001 to 1e9"),
        (["--run.kimg=1e400"], "run.kimg is 1e400, expected a number from 0.001 to 1e9"),
        (["--run.tick_kimg=inf"], "run.tick_kimg is inf, expected a number from 0.001 to 1e9"),
        (["--optim.batch_gpu=0"], "optim.batch_gpu is 0, expected a whole number from 1 to 2147483647 or auto or null"),
        (["--gan.w_avg_beta=2"], "gan.w_avg_beta is 2, expected a number from 0 to 1"),
        (["--gan.conv_clamp=-1"], "gan.conv_clamp is -1, expected a number from 0.001 to 65504 or null"),
        (["--smart.batch_fraction=1e-9"], "smart.batch_fraction is 1e-9, expected a number from 0.001 to 1"),
        (["--perf.cpu_threads=1000000"], "perf.cpu_threads is 1000000, expected a whole number from 1 to 1024 or null"),
        (["--metrics.names=kid,kid"], "metrics.names is kid, kid, expected each once"),
        (["--optim.betas=0.5,1"], "optim.betas is [0.5,1], expected a list [a, b], each a number of at least 0 and "),
        (["--optim.lr_g=fast"], "optim.lr_g is fast, expected a number above 0 and at most 1 or a schedule such as {"),
        (
            ["--optim.lr_g={kind: linear, kimg: [0, 1], values: [0.1, .nan]}"],
            "optim.lr_g is nan, expected a number from 0 to 1",
        ),
        (["--optim.lr_g=0"], "optim.lr_g is 0, expected a number above 0 and at most 1 or a schedule such as {"),
        (
            ["--optim.lr_d={kind: linear, kimg: [0, 1], values: [0, 0]}"],
            "optim.lr_d is a schedule of zeros, expected a value above 0",
        ),
        (
            ["--optim.ema_kimg={kind: linear, kimg: [0, 1], values: [1, 0]}"],
            "optim.ema_kimg is 0.0, expected a number from 0.001 to 1e9",
        ),
        (
            ["--optim.lr_g={kind: linear, kimg: [0, .inf], values: [0.1, 0.2]}"],
            "optim.lr_g is a schedule with kimg [0.0, inf], expected rising numbers of at least 0",
        ),
        (["--gan={z_dim: -3}"], "gan.z_dim is -3, expected a whole number from 1 to 1000000000"),
        (["--run=5"], "run is 5, expected a group of settings {name: value}"),
        (["--run.dir="], "run.dir is empty, expected a path"),
        (["--run.dir=~nobody-of-that-name/x"], "run.dir is ~nobody-of-that-name/x, expected a path"),
        (["--data.path=a\nb"], "data.path is a b, expected a path without line breaks"),
        ([f"--run.dir={'x' * 300}"], f"run.dir is {'x' * 100}, expected a path"),
        (["--smart.scorer=" + "x/" * 3000], "smart.scorer is x/x/"),
    ],
)
def test_the_line(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(arguments)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("grad_clip=0", "grad_clip is 0, expected a number from 1e-6 to 1e6"),
        ("grad_clip=-1", "grad_clip is -1, expected a number from 1e-6 to 1e6"),
        ("sample_rows=0", "sample_rows is 0, expected a whole number from 1 to 2147483647"),
        ("unet.dropout=1.5", "unet.dropout is 1.5, expected a number of at least 0 and below 1"),
        ("perf.cpu_threads=0", "perf.cpu_threads is 0, expected a whole number from 1 to 1024 or null"),
    ],
)
def test_the_line_of_train_scorer(option: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_options(TrainScorerOptions, [f"--{option}"], command="train-scorer")
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (Config(run=RunConfig(kimg=float("nan"))), "run.kimg is nan, expected"),
        (Config(metrics=MetricsConfig(names=("fid", "fid"))), "metrics.names is fid, fid, expected each once"),
        (Config(optim=OptimConfig(betas=(0.0, Schedule("linear", (0.0, 1.0), (0.9, 1.0))))), "optim.betas is 1.0, exp"),
        (Config(optim=OptimConfig(lr_g=Schedule("linear", (0.0,), (0.1, 0.2)))), "optim.lr_g is a schedule of 1 kimg"),
        (Config(optim=OptimConfig(batch=0)), "optim.batch is 0, expected"),
    ],
)
def test_configurations_from_python_are_held_against_the_same_ranges(config: Config, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        in_range(config)


@pytest.mark.parametrize("values", [(0.002, 0.0), (0.0, 0.002), (0.0, 0.002, 0.0)])
@pytest.mark.parametrize("kind", ["linear", "cosine", "piecewise"])
def test_a_learning_rate_may_rise_from_0_and_fall_to_it(kind: str, values: tuple[float, ...]) -> None:
    points = list(range(len(values)))
    text = f"{{kind: {kind}, kimg: {points}, values: {list(values)}}}"
    optim = parse_config([f"--optim.lr_g={text}", f"--optim.lr_d={text}"]).optim
    assert optim.lr_g == optim.lr_d == Schedule(kind, tuple(map(float, points)), values)


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested dictionaries and tuples."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
    if inner is None:
        yield value
    else:
        for part in inner:
            yield from leaves(part)


def test_values_are_plain() -> None:
    """YAML, JSON and torch.compile take ints and floats, not types derived from them."""
    lists = ["--optim.betas=0.5,0.9", "--smart.timesteps=3,4"]
    config = parse_config([*lists, "--gan.conv_clamp=3", "--run.dir=~/x", "--smart.scorer_options.sigma_max=3"])
    assert {type(value) for value in leaves(dataclasses.asdict(config))} <= {int, float, str, bool, type(None)}
    assert config.run.dir.startswith("/") and "betas:\n  - 0.5\n  - 0.9" in config_to_yaml(config)
