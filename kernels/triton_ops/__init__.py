"""The ops as Triton kernels; importing this package registers them. One file per op: kernels, op, derivatives."""
