"""The terms of the training objective."""

from smartfast.losses.score import score_loss

__all__ = ["score_loss"]
