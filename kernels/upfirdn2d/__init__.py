"""Resampling with a FIR filter."""

from . import aten as aten  # registers it
