"""Convolution, its gradients, and convolution with an epilogue in one kernel."""
