"""The networks and the averaged generator."""

from smartfast.models.discriminator import Discriminator
from smartfast.models.generator import Generator

__all__ = ["Discriminator", "Generator"]
