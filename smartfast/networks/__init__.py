"""The trained networks: torch modules, and nothing else."""
