"""Bias, activation, gain and clamp."""

from . import aten as aten  # registers it
