"""Linear layers of experts, each applied to its own run of rows."""

from . import aten as aten  # registers it
