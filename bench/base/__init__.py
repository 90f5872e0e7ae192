"""What every measurement stands on: devices and their limits, timing, jobs of training, files of results."""
