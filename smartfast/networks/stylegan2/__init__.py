"""The networks and the averaged generator."""

from smartfast.networks.stylegan2.discriminator import Discriminator
from smartfast.networks.stylegan2.generator import Generator

__all__ = ["Discriminator", "Generator"]
