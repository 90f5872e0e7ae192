"""The commands beside training."""
