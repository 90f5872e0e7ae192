"""R3GAN's networks (Huang et al., "The GAN is dead; long live the GAN!", arXiv 2501.05441)."""

from smartfast.networks.r3gan.networks import Discriminator, Generator, R3GanOptions

__all__ = ["Discriminator", "Generator", "R3GanOptions"]
