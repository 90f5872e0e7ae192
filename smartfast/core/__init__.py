"""What every part may use: files, caches, pixels, random draws, processes, signals."""
