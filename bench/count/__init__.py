"""What is counted and not measured: FLOPs, bytes and launches of a function, and the least time that they take."""
