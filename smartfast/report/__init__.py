"""report.html of a run folder, from its files alone."""
