"""BigGAN (Brock et al., "Large scale GAN training for high fidelity natural image synthesis", arXiv 1809.11096)."""
