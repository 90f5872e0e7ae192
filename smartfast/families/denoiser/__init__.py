"""A diffusion model of the images (Ho et al., DDPM, arXiv 2006.11239), to serve as a scorer: diffusers' UNet2DModel."""
