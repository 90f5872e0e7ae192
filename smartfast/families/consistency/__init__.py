"""A consistency model (Song et al., arXiv 2303.01469), distilled from the scorer: images in one step."""
