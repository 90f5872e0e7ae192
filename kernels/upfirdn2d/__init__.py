"""Resampling with a FIR filter."""
