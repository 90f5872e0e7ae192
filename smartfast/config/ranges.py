"""Checks of numbers in a configuration: one line for the first that is out of range."""

from collections.abc import Mapping

from smartfast.config.schedule import Quantity, values_of
from smartfast.errors import UserError


def require_positive(settings: Mapping[str, Quantity | None]) -> None:
    """Raise UserError for the first number by name, at any time of its schedule, that is not above 0."""
    for name, quantity in settings.items():
        for value in () if quantity is None else values_of(quantity):
            if not value > 0:
                raise UserError(f"{name} is {value}, expected more than 0")


def require_not_negative(settings: Mapping[str, Quantity | None]) -> None:
    """Raise UserError for the first number by name, at any time of its schedule, that is below 0."""
    for name, quantity in settings.items():
        for value in () if quantity is None else values_of(quantity):
            if not value >= 0:
                raise UserError(f"{name} is {value}, expected 0 or more")
