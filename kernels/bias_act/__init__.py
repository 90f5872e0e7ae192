"""Bias, activation, gain and clamp."""
