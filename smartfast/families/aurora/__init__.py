"""Aurora (Zhu et al., arXiv 2309.03904), conditional on classes; all of it but the generator is ours."""
