"""The terms of the training objective."""

from smartfast.losses.score import ScoreTerm, score_loss, score_loss_past_network

__all__ = ["ScoreTerm", "score_loss", "score_loss_past_network"]
