"""The configuration on the command line and in YAML files."""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from smartfast.config.families import DEFAULT_FAMILY, FAMILY_SETTINGS
from smartfast.config.schema import Config
from smartfast.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIGS = Path(__file__).parents[1] / "configs" / "presets"
Options = TypeVar("Options", bound="DataclassInstance")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """An argument parser whose errors are one line, and name the nearest option where one is misspelt."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(explain(message, option_names(self)))


def option_names(parser: ArgumentParser) -> list[str]:
    """Dotted names of all options of a parser, without the leading dashes."""
    return [s[2:] for action in parser._actions for s in action.option_strings if s.startswith("--")]


def explain(message: str, names: Sequence[str]) -> str:
    """One line for an error of jsonargparse, with the nearest of `names` for an option that does not exist."""
    line = " ".join(message.split())
    wrong = None
    if match := re.search(r"[Gg]roup '([\w.]+)' does not accept option '([\w.]+)'", line):
        wrong = f"{match[1]}.{match[2]}"
    elif match := re.search(r"[Uu]nrecognized arguments: --([\w.\-]+)", line):
        wrong = match[1]
    elif match := re.search(r"[Oo]ption '([\w.]+)' is not accepted", line):
        wrong = match[1]
    if wrong is None:
        return line
    nearest = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; --help lists all options"
    return f"{wrong}: there is no such option{hint}"


def config_parser(prog: str = "smartfast train", family: str = DEFAULT_FAMILY) -> Parser:
    """The parser of `smartfast train`: --config, --print_config and one dotted option per field of `Config`.

    Raises:
        UserError: There is no such family.
    """
    if family not in FAMILY_SETTINGS:
        raise UserError(f"gan.family is {family}, expected one of {', '.join(FAMILY_SETTINGS)}")
    parser = Parser(
        prog=prog,
        description="Train a GAN with score-matching regularity. Rerunning the same command resumes the run.",
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file or name of a preset (`smartfast presets` lists them; a file of such a name is ./NAME). Its "
        "values override the defaults below. Without it, and without data.path, the preset digits is trained.",
    )
    groups = {field.name: field.type for field in dataclasses.fields(Config)} | FAMILY_SETTINGS[family]._asdict()
    for name, group in groups.items():
        parser.add_class_arguments(group, name)
    return parser


def parse_config(arguments: Sequence[str], *, prog: str = "smartfast train") -> Config:
    """The configuration of a command line; where it gives neither --config nor data.path, from the preset `digits`.

    Raises:
        UserError: An option, key or value is wrong; the message names it.
    """
    arguments = [_config_file(a, before) for before, a in itertools.pairwise(["", *arguments])]
    arguments = _in_its_folder(arguments)
    family = family_of(arguments)
    parser = config_parser(prog, family)
    # Both print and exit, and belong to the whole of what is parsed below.
    given = [a for a in arguments if a not in ("-h", "--help") and not a.startswith("--print_config")]
    is_own = {"config", "data.path"} & set(parser.parse_args(given, defaults=False).keys())
    if not is_own and family == DEFAULT_FAMILY:
        arguments = ["--config", str(CONFIGS / "digits.yaml"), *arguments]
    parsed = parser.instantiate(parser.parse_args(arguments))
    return Config(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)})


def _in_its_folder(arguments: list[str]) -> list[str]:
    """With run.dir behind a run folder's own config.yaml, which may have moved since it was written."""
    found = []
    for before, argument in itertools.pairwise(["", *arguments]):
        found.append(argument)
        file = Path(argument.removeprefix("--config="))
        is_file = before == "--config" or argument.startswith("--config=")
        if is_file and file.name == "config.yaml" and (file.parent / "checkpoints").is_dir():
            found.append(f"--run.dir={file.parent.resolve()}")
    return found


def family_of(arguments: Sequence[str]) -> str:
    """The value of gan.family in a command line: the last one given, in it or in its files; the default without one."""
    family = DEFAULT_FAMILY
    for before, argument in itertools.pairwise(["", *arguments, ""]):
        name, _, value = argument.partition("=")
        if before in ("--gan.family", "--config"):
            name, value = before, argument
        if name == "--gan.family":
            family = value
        elif name == "--config" and value and Path(value).is_file():
            family = _family_in_file(Path(value)) or family
    return family


def _family_in_file(path: Path) -> str | None:
    try:
        return yaml.safe_load(path.read_text())["gan"]["family"]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError):
        return None  # whatever is wrong with the file, the parser says


def presets() -> list[str]:
    """Names that --config knows."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _config_file(argument: str, before: str) -> str:
    """The file in place of a preset's name (`--config cifar10`), which means the preset wherever the command runs."""
    name = argument.removeprefix("--config=")
    if before != "--config" and name == argument:
        return argument
    if name in presets():
        return argument.removesuffix(name) + str(CONFIGS / f"{name}.yaml")
    if not Path(name).is_file():
        raise UserError(f"--config {name}: no such file; the presets are {', '.join(presets())}")
    return argument


def load_config(path: Path) -> Config:
    """A configuration from a YAML file such as a run folder's config.yaml."""
    return parse_config(["--config", str(path)])


def config_to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested plain values, as YAML and the trackers take them."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def config_to_yaml(config: Config) -> str:
    """The complete configuration as YAML that --config reads back."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def parse_options(options: type[Options], arguments: Sequence[str], *, command: str) -> Options:
    """An instance of the dataclass `options` from the command line of `smartfast <command>`.

    Raises:
        UserError: An option or value is wrong; the message names it.
    """
    parser = Parser(prog=f"smartfast {command}", description=options.__doc__)
    parser.add_argument("--config", action="config", help="YAML file; its values override the defaults below.")
    parser.add_class_arguments(options)
    parsed = parser.instantiate(parser.parse_args(arguments))
    return options(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(options)})
