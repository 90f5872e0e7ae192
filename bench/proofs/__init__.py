"""Evidence beside speed, each module a program of its own: equal results, precision, compiled kernels."""
