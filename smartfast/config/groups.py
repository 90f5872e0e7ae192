"""What the groups `gan` and `loss` of the configuration have in every family."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GanSettings:
    """The networks. family: The name of their kind, a key of FAMILY_SETTINGS."""

    family: str


@dataclass(frozen=True)
class LossSettings:
    """The objective."""
