"""The life of a training run."""
