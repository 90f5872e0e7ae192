"""Diffusion noise, and the distance of a prediction to it."""

from . import aten as aten  # registers it
