"""How phases of a training run: gradients, optimizer steps, averages, compilation, CUDA graphs. Knows no network."""
