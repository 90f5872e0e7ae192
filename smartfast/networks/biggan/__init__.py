"""BigGAN's networks (Brock et al., arXiv 1809.11096) under the names of ajbrock/BigGAN-PyTorch."""

from smartfast.networks.biggan.layers import BatchStatistics
from smartfast.networks.biggan.networks import RESOLUTIONS, BigGanOptions, Discriminator, Generator, latent_slots

__all__ = ["RESOLUTIONS", "BatchStatistics", "BigGanOptions", "Discriminator", "Generator", "latent_slots"]
