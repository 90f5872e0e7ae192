"""Counter-based random numbers."""

from . import aten as aten  # registers it
