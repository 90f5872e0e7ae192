"""What a scorer's file is read with: `smart.scorer_options`, what the file itself says, or what is known of it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from smartfast.config.scorer import ScorerOptions
from smartfast.errors import UserError

USUAL = "usual"
"""The source of a value that nothing names."""


class Setting(NamedTuple):
    """An option of `ScorerOptions`, its value in use, and where that comes from."""

    option: str
    value: Any
    source: str


class Settings:
    """The options that one file is read with; a loader takes them one by one.

    Args:
        given: By the user.
        where: The file, for messages.
    """

    def __init__(self, given: ScorerOptions | None = None, where: str = "scorer") -> None:
        self.given, self.where = given or ScorerOptions(), where
        self.taken: list[Setting] = []

    def take(self, option: str, otherwise: Any, source: str, *, among: Sequence[Any] = ()) -> Any:
        """The user's value of an option, or else `otherwise`, from `source`; None where there is neither.

        Raises:
            UserError: The user's value is not among those that this file may be read with.
        """
        value = getattr(self.given, option)
        if value is not None and among and value not in among:
            raise UserError(
                f"smart.scorer_options.{option} is {value}, expected of {self.where} {' or '.join(map(str, among))}"
            )
        value, source = (otherwise, source) if value is None else (value, "smart.scorer_options")
        if value is not None:
            self.taken.append(Setting(option, value, source))
        return value

    def check_all_taken(self, kind: str) -> None:
        """Raises UserError, one line, where the user gives an option that files of this kind are not read with."""
        taken = {setting.option for setting in self.taken}
        for option, value in asdict(self.given).items():
            if value is not None and option not in taken:
                can = f"{', '.join(sorted(taken))} alone" if taken else "no options"
                raise UserError(
                    f"smart.scorer_options.{option} is {value}, expected unset: {self.where}, of the format {kind}, is "
                    f"read with {can}"
                )


def options_in_use(settings: Sequence[Setting]) -> ScorerOptions:
    """The options with which the same file is read in the same way, whatever is known of it."""
    return ScorerOptions(**{setting.option: setting.value for setting in settings})


def described(settings: Sequence[Setting]) -> str:
    """`attention_order legacy, steps 1000 (published lsun_bedroom); schedule cosine (smart.scorer_options)`."""
    by_source: dict[str, list[str]] = {}
    for option, value, source in settings:
        by_source.setdefault(source, []).append(f"{option} {value}")
    return "; ".join(f"{', '.join(parts)} ({source})" for source, parts in by_source.items())
