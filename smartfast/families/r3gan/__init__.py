"""R3GAN (Huang et al., "The GAN is dead; long live the GAN!", arXiv 2501.05441)."""
