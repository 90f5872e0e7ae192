"""A diffusion model of the images (Ho et al., arXiv 2006.11239; Karras et al., 2206.00364), to serve as a scorer."""
