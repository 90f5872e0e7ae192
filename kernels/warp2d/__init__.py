"""Warping images affinely, each by a matrix of its own, between a smooth upsampling and its downsampling."""

from . import aten as aten  # registers it
