"""From files of results to bench/RESULTS.md, its plots and the README's table."""
