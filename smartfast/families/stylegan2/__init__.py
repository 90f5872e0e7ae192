"""StyleGAN2 (Karras et al., arXiv 1912.04958), with stylegan2-ada-pytorch's configurations."""
