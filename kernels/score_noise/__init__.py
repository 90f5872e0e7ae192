"""Diffusion noise, and the distance of a prediction to it."""
