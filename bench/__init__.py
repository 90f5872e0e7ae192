"""What the kernels cost: compiled ahead of time, and bytes counted. For a checkout: `python -m bench.<module>`."""
