"""Attention by the Euclidean distance of queries and keys."""

from . import aten as aten  # registers it
