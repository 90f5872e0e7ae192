"""Aurora's generator (Zhu et al., arXiv 2309.03904), conditional on classes."""

from smartfast.networks.aurora.attention import ResidualAttention
from smartfast.networks.aurora.experts import Routing
from smartfast.networks.aurora.generator import Generator
from smartfast.networks.aurora.options import AuroraOptions

__all__ = ["AuroraOptions", "Generator", "ResidualAttention", "Routing"]
