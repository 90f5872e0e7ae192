"""Checks of numbers in a configuration: one line for the first that is out of range."""

from collections.abc import Mapping

from smartfast.config.schedule import Quantity, Schedule, values_of
from smartfast.errors import UserError


def require_schedules(settings: Mapping[str, Quantity | None]) -> None:
    """Raise UserError for the first schedule by name whose points make none."""
    for name, quantity in settings.items():
        if not isinstance(quantity, Schedule):
            continue
        kimg, values = quantity.kimg, quantity.values
        if len(kimg) != len(values) or not kimg:
            raise UserError(f"{name} is a schedule of {len(kimg)} kimg and {len(values)} values, expected as many")
        if list(kimg) != sorted(set(kimg)) or kimg[0] < 0:
            raise UserError(f"{name} is a schedule with kimg {list(kimg)}, expected rising numbers of at least 0")


def require_positive(settings: Mapping[str, Quantity | None]) -> None:
    """Raise UserError for the first number by name, at any time of its schedule, that is not above 0."""
    require_schedules(settings)
    for name, quantity in settings.items():
        for value in () if quantity is None else values_of(quantity):
            if not value > 0:
                raise UserError(f"{name} is {value}, expected more than 0")


def require_not_negative(settings: Mapping[str, Quantity | None]) -> None:
    """Raise UserError for the first number by name, at any time of its schedule, that is below 0."""
    require_schedules(settings)
    for name, quantity in settings.items():
        for value in () if quantity is None else values_of(quantity):
            if not value >= 0:
                raise UserError(f"{name} is {value}, expected 0 or more")
