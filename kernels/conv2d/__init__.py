"""Convolution, its gradients, and convolution with an epilogue in one kernel."""

from . import aten as aten  # registers it
