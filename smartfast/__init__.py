"""SmartFast: fast training of GANs with score-matching regularity (SMaRt, ICML 2024, arXiv 2311.18208)."""

__version__ = "0.1.0"
