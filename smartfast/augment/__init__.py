"""Augmentation of what a discriminator sees: pure functions of images and draws, with static shapes."""

from smartfast.augment.pipes import PIPES, Pipe

__all__ = ["PIPES", "Pipe"]
