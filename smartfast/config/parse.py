"""The configuration on the command line and in YAML files."""

import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from smartfast.config.families import DEFAULT_FAMILY, FAMILY_SETTINGS, FamilySettings
from smartfast.config.files import read_settings
from smartfast.config.ranges import in_range, words_of
from smartfast.config.schema import Config
from smartfast.core.text import printable
from smartfast.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIGS = Path(__file__).parents[1] / "configs" / "presets"
SCORER_CONFIGS = CONFIGS.with_name("scorers")
Options = TypeVar("Options", bound="DataclassInstance")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """An argument parser whose errors are one line, and name the nearest option where one is misspelt."""

    arguments: Sequence[str] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse(self, arguments: Sequence[str]) -> Any:
        """The groups of settings of a command line, as dataclasses; it wins over its files, wherever they stand.

        Raises:
            UserError: An option, key or value is wrong; the message names it.
        """
        return self.instantiate(self.given(arguments, defaults=True))

    def given(self, arguments: Sequence[str], *, defaults: bool = False) -> Namespace:
        """What a command line gives, by dotted name, and with `defaults` what it does not; raises as `parse`."""
        self.arguments = list_options(lone_switches(files_first(arguments), self.hints()), self.hints())
        for path in _values("config", self.arguments):
            settings = read_settings(path)  # says better than the parser what is wrong with a file
            if not settings:
                raise UserError(f"{path} is empty, expected groups of settings such as run: {{kimg: 100}}")
            _check_groups(settings, self.hints(), path)
        return self.parse_args(self.arguments, defaults=defaults)

    def hints(self) -> dict[str, Any]:
        """The types of all options by their dotted names, without the leading dashes."""
        return {
            option[2:]: getattr(action, "_typehint", None)
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and not option.endswith(".help")
        }

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(explain(message, self.hints(), self.arguments))


def _check_groups(settings: Mapping[str, Any], options: Iterable[str], path: str, prefix: str = "") -> None:
    """Raise UserError for a group in a file behind which nothing stands."""
    for name, value in settings.items():
        inner = f"{prefix}{name}."
        if not any(option.startswith(inner) for option in options):
            continue
        if value is None:
            raise UserError(f"{path}: {prefix}{name} is empty, expected settings below it, or it left out")
        if isinstance(value, dict):
            _check_groups(value, options, path, inner)


def files_first(arguments: Sequence[str]) -> list[str]:
    """The same command line with every --config before all other options, in its order among its like."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            files += [argument, *itertools.islice(rest, 1)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


def lone_switches(arguments: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The same command line with "true" for switches that stand alone: `--run.dry_run`, before an option or the end."""
    followers = itertools.pairwise([*arguments, "--"])
    return [
        f"{argument}=true" if _is_switch(hints.get(argument[2:])) and after.startswith("--") else argument
        for argument, after in followers
    ]


def _is_switch(hint: Any) -> bool:
    return hint is bool or bool in get_args(hint)


def list_options(arguments: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The same command line with brackets around lists that have none: `--optim.betas 0.5,0.9`, or `0.5 0.9`."""
    result, rest = [], list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or not takes_list(hints.get(name[2:])):
            result.append(name + equals + value)
        elif equals:
            result.append(f"{name}={_bracketed([value])}")
        else:
            words = list(itertools.takewhile(lambda word: not word.startswith("--"), rest))
            result += [name, _bracketed(words)] if words else [name]
            del rest[: len(words)]
    return result


def _bracketed(words: Sequence[str]) -> str:
    if words[0][:1] in ("[", "(") or list(words) in ([""], ["null"]):
        return " ".join(words)
    return f"[{', '.join(words)}]"


def takes_list(hint: Any) -> bool:
    """Whether a type is that of a list, or may be one."""
    return get_origin(hint) is tuple or any(get_origin(part) is tuple for part in get_args(hint))


def explain(message: str, hints: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """One line for an error of jsonargparse.

    Args:
        message: What it says.
        hints: Types of all options by name, of which the nearest is named in place of one that does not exist.
        arguments: The command line.
    """
    line = " ".join(message.split())
    wrong = None
    if match := re.search(r"[Gg]roup '([\w.]+)' does not accept option '([\w.]+)'", line):
        wrong = f"{match[1]}.{match[2]}"
    elif match := re.search(r"[Uu]nrecognized arguments: --([\w.\-]+)", line):
        wrong = match[1]
    elif match := re.search(r"[Oo]ption '([\w.]+)' is not accepted", line):
        wrong = match[1]
    if wrong is not None:
        if elsewhere := _of_other_families(wrong, arguments):
            return elsewhere
        nearest = difflib.get_close_matches(wrong, list(hints), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else "; --help lists all options"
        return f"{wrong}: there is no such option{hint}" + ("" if _is_given(wrong, arguments) else _in_files(arguments))
    if re.search(r"\bkeys?: |is not accepted|does not accept", line):
        return line + _in_files(arguments)
    names = re.findall(r'Parser key "([\w.]+)":', line)
    if not names or names[-1] not in hints:
        return line
    name, hint = names[-1], hints[names[-1]]
    given = _values(name, arguments)
    found = f" is {printable(' '.join(str(given[-1]).split()))[:100] or 'empty'}," if given else ":"
    return f"{name}{found} expected {words_of(hint) if hint else 'a group of settings {name: value}'}"


def _values(name: str, arguments: Sequence[str]) -> list[Any]:
    """What a command line gives for an option, the value that counts last: in its files, then in itself."""
    group, _, field = name.partition(".")
    values: list[Any] = []
    for option, text in _options(arguments):
        if option == f"--{name}":
            values.append(text)
        elif option == f"--{group}":
            values += _in_mapping(text, field)
    if name == "config":
        return values
    return [value for path in _values("config", arguments) for value in _in_file(path, name.split("."))] + values


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, in either form; a lone switch has what stands behind it for one."""
    for before, argument in itertools.pairwise(["", *arguments]):
        if before.startswith("--") and "=" not in before:
            yield before, argument
        if argument.startswith("--") and "=" in argument:
            option, _, text = argument.partition("=")
            yield option, text


def _in_mapping(text: str, field: str) -> list[Any]:
    """The field of a group that is given as a whole, such as `{family: vae}`."""
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        return []  # the parser says what is wrong
    return [settings[field]] if isinstance(settings, dict) and field in settings else []


def _of_other_families(name: str, arguments: Sequence[str]) -> str | None:
    """What to say of an option that the chosen family lacks and others have; None where none has it."""
    group, _, field = name.partition(".")
    if group not in FamilySettings._fields:
        return None
    settings = {family: getattr(groups, group) for family, groups in FAMILY_SETTINGS.items()}
    owners = [family for family, known in settings.items() if field in known.__dataclass_fields__]
    if not owners:
        return None
    family = family_of(arguments)
    line = f"{name}: an option of gan.family {', '.join(owners)}, not of {family}"
    if _is_given(name, arguments):
        return f"{line}; `smartfast train --gan.family {family} --help` lists those"
    return f"{line}{_in_files(arguments)}; expected {_files_of(family)}"


def _is_given(name: str, arguments: Sequence[str]) -> bool:
    return any(argument.startswith(f"--{name}") for argument in arguments)


def _in_files(arguments: Sequence[str]) -> str:
    files = _values("config", arguments)
    return f" (in {', '.join(files)})" if files else ""


def _in_file(path: str, keys: Sequence[str]) -> list[Any]:
    settings: Any = read_settings(path)
    if (dotted := ".".join(keys)) in settings:
        return [settings[dotted]]
    for key in keys:
        if not isinstance(settings, dict) or key not in settings:
            return []
        settings = settings[key]
    return [settings]


def config_parser(prog: str = "smartfast train", family: str = DEFAULT_FAMILY) -> Parser:
    """The parser of `smartfast train`: --config, --print_config and one dotted option per field of `Config`.

    Raises:
        UserError: There is no such family.
    """
    if family not in FAMILY_SETTINGS:
        raise UserError(f"gan.family is {family}, expected one of {', '.join(FAMILY_SETTINGS)}")
    parser = Parser(
        prog=prog,
        description="Train a GAN with score-matching regularity. Rerunning the same command resumes the run. The "
        f"defaults shown are those of gan.family {family} without a preset; --print_config shows a preset's values.",
    )
    parser.add_argument(
        "--config",
        action="config",
        help=f"YAML file or name of a preset: {', '.join(presets())} (`smartfast presets` compares them; a file of "
        "such a name is ./NAME). Its values override the defaults below, the command line overrides both, "
        "in any order. Without it, and without data.path, the preset digits is trained.",
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
    arguments = _in_its_folder(_with_files(arguments, CONFIGS))
    family = family_of(arguments)
    _check_files(arguments, family)
    parser = config_parser(prog, family)
    # Both print and exit, and belong to the whole of what is parsed below.
    given = [a for a in arguments if a not in ("-h", "--help") and not a.startswith("--print_config")]
    keys = set(parser.given(given).keys())
    is_own = {"config", "data.path"} & keys
    if not is_own and family == DEFAULT_FAMILY:
        arguments = ["--config", str(CONFIGS / "digits.yaml"), *arguments]
    parsed = parser.parse(arguments)
    config = Config(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)})
    return in_range(config if "perf.precision" in keys else with_preferred(config))


def with_preferred(config: Config) -> Config:
    """The configuration with the arithmetic that is preferred where none is set, under perf.preset auto."""
    perf = config.perf
    if perf.preset != "auto" or perf.preferred is None:
        return config
    return dataclasses.replace(config, perf=dataclasses.replace(perf, precision=perf.preferred))


def _in_its_folder(arguments: list[str]) -> list[str]:
    """With the folder of a run's own config.yaml, which may have moved since, in place of the run.dir in it."""
    folder = None
    for name in _values("config", arguments):
        file = Path(name)
        if file.name == "config.yaml" and (file.parent / "checkpoints").is_dir():
            folder = file.parent.resolve()
        elif _in_file(name, ["run", "dir"]):
            folder = None
    return arguments if folder is None else [f"--run.dir={folder}", *arguments]  # whatever else says run.dir wins


def family_of(arguments: Sequence[str]) -> str:
    """The value of gan.family in a command line, with its files before all else; the default where none gives it."""
    given = _values("gan.family", arguments)
    return given[-1] if given and isinstance(given[-1], str) else DEFAULT_FAMILY


def _check_files(arguments: Sequence[str], family: str) -> None:
    """Raise UserError for a file that names another family than the one that counts."""
    for path in _values("config", arguments):
        for found in _in_file(path, ["gan", "family"]):
            if isinstance(found, str) and found != family and {found, family} <= FAMILY_SETTINGS.keys():
                raise UserError(f"gan.family is {family}, expected {found} with {path}, or {_files_of(family)}")


def _files_of(family: str) -> str:
    """What --config may be for a family, in words."""
    fitting = [name for name in presets() if family_of(["--config", str(CONFIGS / f"{name}.yaml")]) == family]
    return f"--config {', '.join(fitting)}, or none" if fitting else "no --config"


def presets(folder: Path = CONFIGS) -> list[str]:
    """Names that --config knows: of `smartfast train`, or of another command whose presets are in `folder`."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _with_files(arguments: Sequence[str], folder: Path) -> list[str]:
    """The same command line with the files of `folder` in place of their names behind --config."""
    return [_config_file(argument, before, folder) for before, argument in itertools.pairwise(["", *arguments])]


def _config_file(argument: str, before: str, folder: Path) -> str:
    """The file in place of a preset's name (`--config cifar10`), which means the preset wherever the command runs."""
    name = argument.removeprefix("--config=")
    if before != "--config" and name == argument:
        return argument
    if name in presets(folder):
        return argument.removesuffix(name) + str(folder / f"{name}.yaml")
    if not os.path.isfile(name):  # pathlib's raises for names that no file can have
        raise UserError(f"--config {name}: no such file; the presets are {', '.join(presets(folder))}")
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


def options_parser(options: type[Options], *, command: str, folder: Path | None = None) -> Parser:
    """The parser of `smartfast <command>`: --config and one option per field of the dataclass `options`.

    folder: Holds the command's presets, None = it has none.
    """
    parser = Parser(prog=f"smartfast {command}", description=options.__doc__)
    file = "YAML file" if folder is None else f"YAML file or name of a preset: {', '.join(presets(folder))}"
    parser.add_argument("--config", action="config", help=f"{file}; its values override the defaults below.")
    parser.add_class_arguments(options)
    return parser


def parse_options(
    options: type[Options], arguments: Sequence[str], *, command: str, folder: Path | None = None
) -> Options:
    """An instance of the dataclass `options` from the command line of `smartfast <command>`, `folder` as above.

    Raises:
        UserError: An option or value is wrong; the message names it.
    """
    if folder is not None:
        arguments = _with_files(arguments, folder)
    parsed = options_parser(options, command=command, folder=folder).parse(arguments)
    return in_range(options(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(options)}))
